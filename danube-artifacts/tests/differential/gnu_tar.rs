//! What this crate accepts, GNU tar unpacks to the same tree: the body of the fuzz target
//! `tar_differential`, which an ordinary test runs over the corpus in `fuzz/corpus/`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use danube_artifacts::archive::{Entries, EntryKind, Limits};

/// What becomes of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It was refused, and nobody else was asked.
    Refused,
    /// It was accepted, and GNU tar made the same of it.
    Agreed,
}

#[derive(Debug, PartialEq, Eq)]
enum Node {
    Directory,
    File { content: Vec<u8>, is_executable: bool },
    Link(String),
}

/// Reads `input` as a tar archive after its checksums were made right, and has GNU tar unpack what was
/// accepted, below `scratch`.
///
/// # Panics
///
/// When the two disagree.
pub fn check(input: &[u8], scratch: &Path) -> Outcome {
    let tar = repaired(input);
    let limits =
        Limits::default().with_max_entries(64).with_max_file_bytes(1 << 16).with_max_bytes(1 << 18);
    let Some(ours) = read(&tar, limits) else { return Outcome::Refused };
    let dir = tempfile::tempdir_in(scratch).expect("a directory");
    // As root GNU tar would give files to their owners, and create devices.
    let mut child = Command::new("tar")
        .args(["--extract", "--file=-", "--no-same-owner", "--no-same-permissions"])
        .args(["--delay-directory-restore", "--touch"])
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("GNU tar is there");
    // It may stop reading before the end.
    let _ = child.stdin.take().expect("a pipe").write_all(&tar);
    let out = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&out.stderr);
    let theirs = walk(dir.path());
    assert_eq!(ours, theirs, "GNU tar disagrees (left is ours): {said}");
    Outcome::Agreed
}

/// The archive with the checksum of every header made right and an end after its last whole entry, so
/// that mutations get behind them.
fn repaired(input: &[u8]) -> Vec<u8> {
    let mut tar = input.to_vec();
    let mut at = 0;
    while let Some(block) = tar.get_mut(at..at + 512) {
        if block.iter().all(|byte| *byte == 0) {
            break;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits = block[124..136].iter().take_while(|byte| (b'0'..=b'7').contains(byte));
        let size = digits.fold(0, |size, digit| size * 8 + usize::from(digit - b'0'));
        at += 512 + size.next_multiple_of(512);
    }
    if at <= tar.len() {
        tar.truncate(at);
        tar.extend_from_slice(&[0; 1024]);
    }
    tar
}

fn read(tar: &[u8], limits: Limits) -> Option<BTreeMap<String, Node>> {
    let mut entries = Entries::new(tar, limits);
    let mut all = BTreeMap::new();
    while let Some(entry) = entries.next_entry().ok()? {
        let mut at = entry.path.as_str();
        while let Some((parent, _)) = at.rsplit_once('/') {
            all.insert(parent.to_owned(), Node::Directory);
            at = parent;
        }
        let node = match entry.kind {
            EntryKind::Directory => Node::Directory,
            EntryKind::Symlink { target } => Node::Link(target),
            EntryKind::HardLink { target } => match &all[&target] {
                Node::File { content, is_executable } => {
                    Node::File { content: content.clone(), is_executable: *is_executable }
                }
                other => panic!("a hard link to {other:?}"),
            },
            EntryKind::File { size_bytes, is_executable } => {
                let mut content = vec![0; usize::try_from(size_bytes).expect("it is limited")];
                let mut filled = 0;
                while filled < content.len() {
                    let read = entries.read_content(&mut content[filled..]).ok()?;
                    assert_ne!(read, 0, "the content is shorter than said");
                    filled += read;
                }
                Node::File { content, is_executable }
            }
            other => panic!("an entry of an unknown kind: {other:?}"),
        };
        if !entry.path.is_empty() {
            all.insert(entry.path, node);
        }
    }
    Some(all)
}

fn walk(root: &Path) -> BTreeMap<String, Node> {
    let mut all = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let meta = fs::symlink_metadata(&path).expect("a file");
            let node = if meta.is_dir() {
                // Whoever is not root could not look into it otherwise.
                fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("ours");
                dirs.push(path.clone());
                Node::Directory
            } else if meta.is_symlink() {
                let target = fs::read_link(&path).expect("a link");
                Node::Link(target.to_str().expect("UTF-8").to_owned())
            } else {
                assert!(meta.is_file(), "{} is something else", path.display());
                let is_executable = meta.mode() & 0o100 != 0;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("ours");
                let content = fs::read(&path).expect("a file");
                // A hard link is visited twice, and its mode was changed the first time.
                fs::set_permissions(&path, fs::Permissions::from_mode(meta.mode())).expect("ours");
                Node::File { content, is_executable }
            };
            let below = path.strip_prefix(root).expect("below");
            all.insert(below.to_str().expect("UTF-8").to_owned(), node);
        }
    }
    all
}
