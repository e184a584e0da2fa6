//! Packing and unpacking, against ourselves and against other programs.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use danube_core::ErrorClass;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::hostile::{Tar, gzip};
use super::*;

fn packed(root: &Path) -> (Vec<u8>, Packed) {
    let mut archive = Vec::new();
    let packed = pack(root, &mut archive, &PackOptions::default()).unwrap();
    (archive, packed)
}

fn run(program: &str, args: &[&str], dir: &Path) -> Vec<u8> {
    let mut command = Command::new(program);
    // Elsewhere bsdtar writes names that are not ASCII as bytes of no known character set.
    command.args(args).current_dir(dir).env("LC_ALL", "C.UTF-8");
    let out = command.output().unwrap();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// What a tree is, as far as an archive keeps it.
#[derive(Debug, PartialEq, Eq, Clone)]
enum Node {
    Dir,
    File(Vec<u8>, bool),
    Link(String),
}

fn tree(root: &Path) -> BTreeMap<String, Node> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let node = if meta.is_dir() {
                dirs.push(path.clone());
                Node::Dir
            } else if meta.is_symlink() {
                Node::Link(fs::read_link(&path).unwrap().to_str().unwrap().to_owned())
            } else {
                Node::File(fs::read(&path).unwrap(), meta.permissions().mode() & 0o100 != 0)
            };
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            all.insert(name, node);
        }
    }
    all
}

fn grow(root: &Path, nodes: &BTreeMap<String, Node>) {
    fs::create_dir_all(root).unwrap();
    for (name, node) in nodes {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match node {
            Node::Dir => fs::create_dir_all(path).unwrap(),
            Node::Link(target) => symlink(target, path).unwrap(),
            Node::File(content, is_executable) => {
                fs::write(&path, content).unwrap();
                let mode = if *is_executable { 0o755 } else { 0o600 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}

fn sample() -> BTreeMap<String, Node> {
    let file = |content: &[u8], x| Node::File(content.to_vec(), x);
    let long = format!("deep/{}/{}", "n".repeat(120), "ö".repeat(100));
    BTreeMap::from([
        ("a.txt".to_owned(), file(b"hello", false)),
        ("bin/run".to_owned(), file(b"#!/bin/sh\n", true)),
        ("bin/again".to_owned(), Node::Link("run".to_owned())),
        ("empty".to_owned(), file(b"", false)),
        ("emptydir".to_owned(), Node::Dir),
        ("exactly".to_owned(), file(&[7; 1024], false)),
        ("lib/libx.so.1".to_owned(), file(&[1; 70_000], true)),
        ("lib/up".to_owned(), Node::Link("../bin/run".to_owned())),
        ("lib/dangling".to_owned(), Node::Link("nowhere/at/all".to_owned())),
        ("lib/long".to_owned(), Node::Link("t".repeat(150))),
        ("with space and ü".to_owned(), file(b"x", false)),
        (long, file(b"long", false)),
    ])
}

/// A tree with the directories that its paths imply.
fn whole(nodes: BTreeMap<String, Node>) -> BTreeMap<String, Node> {
    let mut all = nodes.clone();
    for name in nodes.keys() {
        let mut at = name.as_str();
        while let Some((parent, _)) = at.rsplit_once('/') {
            all.insert(parent.to_owned(), Node::Dir);
            at = parent;
        }
    }
    all
}

#[test]
fn what_is_packed_unpacks_to_the_same_tree_here_and_with_other_programs() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    grow(&root, &sample());
    let (archive, packed) = packed(&root);
    assert_eq!(packed.skipped, []);
    let nodes = whole(sample());
    assert_eq!(packed.entries, nodes.len() as u64);

    let ours = dir.path().join("ours");
    let unpacked = unpack(&archive[..], &ours, &Limits::default()).unwrap();
    assert_eq!((unpacked.entries, unpacked.content_bytes), (packed.entries, packed.content_bytes));
    assert_eq!(tree(&ours), nodes);

    fs::write(dir.path().join("a.tar.gz"), &archive).unwrap();
    fs::create_dir(dir.path().join("gnu")).unwrap();
    run("tar", &["-xzf", "a.tar.gz", "-C", "gnu"], dir.path());
    assert_eq!(tree(&dir.path().join("gnu")), nodes);
    fs::create_dir(dir.path().join("bsd")).unwrap();
    run("bsdtar", &["-xzf", "a.tar.gz", "-C", "bsd"], dir.path());
    assert_eq!(tree(&dir.path().join("bsd")), nodes);
    let script = "import tarfile; tarfile.open('a.tar.gz').extractall('python', filter='data')";
    run("python3", &["-c", script], dir.path());
    assert_eq!(tree(&dir.path().join("python")), nodes);
}

#[test]
fn what_other_programs_pack_unpacks_to_the_same_tree() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    grow(&root, &sample());
    fs::hard_link(root.join("a.txt"), root.join("z.txt")).unwrap();
    let nodes = tree(&root);
    let script =
        "import tarfile; t = tarfile.open('py.tgz', 'w:gz'); t.add('root', '.'); t.close()";
    run("python3", &["-c", script], dir.path());
    for format in ["gnu", "pax", "oldgnu"] {
        let format = format!("--format={format}");
        run("tar", &[&format, "-czf", &format[2..], "-C", "root", "."], dir.path());
    }
    for format in ["pax", "gnutar", "paxr"] {
        let (format, name) = (format!("--format={format}"), format!("bsd {format}"));
        run("bsdtar", &[&format, "-czf", &name, "-C", "root", "."], dir.path());
    }
    let by_gnu = ["format=gnu", "format=pax", "format=oldgnu"];
    for name in ["py.tgz", "bsd pax", "bsd gnutar", "bsd paxr"].into_iter().chain(by_gnu) {
        let archive = fs::File::open(dir.path().join(name)).unwrap();
        let copy = dir.path().join(format!("{name} unpacked"));
        unpack(archive, &copy, &Limits::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(tree(&copy), nodes, "{name}");
        let meta = |path: &str| fs::metadata(copy.join(path)).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!(meta("a.txt").ino(), meta("z.txt").ino(), "{name}: still one file");
    }
    // git writes a global header with the commit.
    let git = |args: &[&str]| run("git", args, &root);
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qm", "x"]);
    git(&["archive", "--format=tar.gz", "-o", "../git.tgz", "HEAD"]);
    let archive = fs::File::open(dir.path().join("git.tgz")).unwrap();
    unpack(archive, &dir.path().join("git"), &Limits::default()).unwrap();
    assert_eq!(fs::read(dir.path().join("git/a.txt")).unwrap(), b"hello");
}

#[test]
fn the_same_tree_gives_the_same_bytes_and_nothing_of_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    grow(&one, &sample());
    for (name, node) in sample().into_iter().rev() {
        grow(&two, &BTreeMap::from([(name, node)]));
    }
    // Other times, other permissions of others.
    run("touch", &["-d", "2001-02-03", "a.txt", "lib"], &two);
    run("chmod", &["o+w", "a.txt"], &two);
    let (first, _) = packed(&one);
    assert!(first == packed(&two).0);
    // As bytes that stay: another version that packs otherwise is to say so in the changelog.
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(&first[..]).read_to_end(&mut tar).unwrap();
    let digest: String = Sha256::digest(&tar).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, "240dbb74e2a054b85027eee82476c10c516459e72f4f9238bc21de2516a2c13f");
}

#[test]
fn what_cannot_be_kept_is_left_out_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("d")).unwrap();
    fs::write(root.join("d/file"), b"x").unwrap();
    run("mkfifo", &["fifo"], &root);
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    symlink("../../out", root.join("d/out")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    let (archive, packed) = packed(&root);
    let skipped: Vec<_> =
        packed.skipped.iter().map(|s| format!("{}: {}", s.path, s.refusal)).collect();
    assert_eq!(
        skipped,
        [
            "absolute: it is a symbolic link out of the archive, to \"/etc/passwd\"",
            "d/out: it is a symbolic link out of the archive, to \"../../out\"",
            "fifo: it is a FIFO",
            "socket: it is a socket",
        ]
    );
    let copy = dir.path().join("copy");
    unpack(&archive[..], &copy, &Limits::default()).unwrap();
    assert_eq!(tree(&copy).keys().collect::<Vec<_>>(), ["d", "d/file", "loop"]);
}

#[test]
fn a_tree_beyond_the_limits_is_no_archive() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), [1; 2000]).unwrap();
    fs::write(dir.path().join("b"), [2; 2000]).unwrap();
    let try_with =
        |limits: Limits| pack(dir.path(), io::sink(), &PackOptions::default().with_limits(limits));
    let limits = Limits::default;
    assert!(try_with(limits().with_max_entries(2).with_max_file_bytes(2000)).is_ok());
    for (limits, refusal) in [
        (limits().with_max_entries(1), Refusal::TooManyEntries { limit: 1 }),
        (limits().with_max_file_bytes(1999), Refusal::FileTooLarge { limit: 1999 }),
        (limits().with_max_bytes(6143), Refusal::TooLarge { limit: 6143 }),
    ] {
        let error = try_with(limits).unwrap_err();
        assert_eq!(error.refusal(), Some(&refusal));
        assert_eq!(error.class(), ErrorClass::Exhausted);
    }
    assert!(try_with(limits().with_max_bytes(6144 + 1024)).is_ok());
    fs::write(dir.path().join("\u{7}"), b"").unwrap();
    assert_eq!(try_with(limits()).unwrap_err().refusal(), Some(&Refusal::ControlCharacters));
}

/// A tree that changes while it is packed gives an error or a whole archive, never half a one.
#[test]
fn a_tree_that_changes_meanwhile_never_gives_a_damaged_archive() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let victim = root.join("victim");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut outcomes = BTreeMap::<&str, usize>::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0_usize;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                round += 1;
                let _ = fs::remove_file(&victim);
                let _ = fs::remove_dir(&victim);
                let _ = match round % 5 {
                    0 => fs::write(&victim, vec![b'x'; 300_000]),
                    1 => fs::write(&victim, b"short"),
                    2 => symlink("/etc/passwd", &victim),
                    3 => fs::create_dir(&victim),
                    _ => Ok(()),
                };
            }
        });
        // Both things happen often enough to mean something; how soon, the machine decides.
        let often = |outcomes: &BTreeMap<&str, usize>| {
            outcomes.len() == 2 && outcomes.values().all(|count| *count >= 20)
        };
        for _ in 0..1_000_000 {
            if often(&outcomes) {
                break;
            }
            let mut archive = Vec::new();
            let outcome = match pack(&root, &mut archive, &PackOptions::default()) {
                Ok(_) => {
                    let mut entries = Entries::from_gzip(&archive[..], Limits::default());
                    while entries.next_entry().unwrap().is_some() {}
                    "whole"
                }
                Err(ArchiveError::Changed { .. }) => "changed",
                Err(other) => panic!("{other:?}"),
            };
            *outcomes.entry(outcome).or_default() += 1;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(outcomes.len(), 2, "{outcomes:?}");
}

#[test]
fn an_existing_directory_is_not_unpacked_into() {
    let dir = tempfile::tempdir().unwrap();
    let archive = gzip(&Tar::default().file("a").end());
    let error = unpack(&archive[..], dir.path(), &Limits::default()).unwrap_err();
    assert!(matches!(error, ArchiveError::Exists { .. }));
    assert_eq!(error.class(), ErrorClass::Conflict);
    symlink("/nowhere", dir.path().join("link")).unwrap();
    let into = dir.path().join("link");
    assert!(matches!(
        unpack(&archive[..], &into, &Limits::default()),
        Err(ArchiveError::Exists { .. })
    ));
    let orphan = dir.path().join("no/parent");
    let error = unpack(&archive[..], &orphan, &Limits::default()).unwrap_err();
    assert_eq!(error.class(), ErrorClass::NotFound);
}

#[test]
fn a_source_that_fails_is_an_error_of_the_source() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the line is dead"))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let archive = gzip(&Tar::default().file("a").end());
    let source = (&archive[..20]).chain(Broken);
    let error = unpack(source, &dir.path().join("x"), &Limits::default()).unwrap_err();
    assert!(matches!(error, ArchiveError::Stream { operation: "read", .. }), "{error:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn entries_end_after_an_error_and_skip_what_was_not_read() {
    let tar = Tar::default().file("a").file("b").file("../c").file("d").end();
    let mut entries = Entries::new(&tar[..], Limits::default());
    assert_eq!(entries.next_entry().unwrap().unwrap().path, "a");
    let mut byte = [0];
    assert_eq!(entries.read_content(&mut byte).unwrap(), 1);
    assert_eq!((entries.next_entry().unwrap().unwrap().path, byte), ("b".to_owned(), [b'c']));
    assert!(entries.next_entry().is_err());
    assert_eq!(entries.next_entry().unwrap(), None);
}

proptest! {
    /// Any bytes, in pieces of any size: no panic, and the same answer.
    #[test]
    fn any_bytes_are_read_or_refused_alike(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..2048),
        seed in 0_usize..4,
        piece in 1_usize..700,
    ) {
        let mut tar = Tar::default().file("a").pax(&[("path", b"b")]).file("x").end();
        match seed {
            0 => {}
            1 => tar.splice(0..0, bytes.drain(..)).for_each(drop),
            _ => for (at, byte) in bytes.iter().enumerate().take(20) {
                let at = (at * 7919 + *byte as usize * 31) % tar.len();
                tar[at] ^= byte.rotate_left(3);
            }
        }
        let read = |source: &mut dyn Read| {
            let mut entries = Entries::new(source, Limits::default());
            let mut seen = Vec::new();
            loop {
                match entries.next_entry() {
                    Ok(Some(entry)) => seen.push(Ok(entry)),
                    Ok(None) => return seen,
                    Err(error) => {
                        seen.push(Err(error.to_string()));
                        return seen;
                    }
                }
            }
        };
        struct Pieces<'a>(&'a [u8], usize);
        impl Read for Pieces<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let len = buffer.len().min(self.1);
                self.0.read(&mut buffer[..len])
            }
        }
        prop_assert_eq!(read(&mut &tar[..]), read(&mut Pieces(&tar, piece)));
    }
}
