//! Archives that want to harm, each refused by its name, with a canary beside the root.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::header::{Block, Header, checksum, extended_record};
use super::*;

/// One block after another, spelled as nobody should.
#[derive(Default, Clone)]
pub(super) struct Tar(Vec<u8>);

impl Tar {
    pub(super) fn entry(self, type_flag: u8, name: &str, link: &str, content: &[u8]) -> Self {
        self.sized(type_flag, name, link, content.len() as u64, content, |_| {})
    }

    pub(super) fn file(self, name: &str) -> Self {
        self.entry(b'0', name, "", b"content")
    }

    fn sized(
        mut self,
        type_flag: u8,
        name: &str,
        link: &str,
        size: u64,
        content: &[u8],
        change: impl FnOnce(&mut Block),
    ) -> Self {
        let (name, link) = (name.as_bytes().to_vec(), link.as_bytes().to_vec());
        let header = Header { name, link, size, type_flag, is_executable: false };
        let mut block = header.to_block(0o644, 0);
        change(&mut block);
        self.0.extend_from_slice(&block);
        self.content(content)
    }

    fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// A file whose header is changed, and its checksum made right again.
    fn changed(self, change: impl FnOnce(&mut Block)) -> Self {
        self.sized(b'0', "file", "", 7, b"content", |block| {
            change(block);
            let sum = format!("{:06o}\0 ", checksum(block));
            block[148..156].copy_from_slice(sum.as_bytes());
        })
    }

    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let text: Vec<u8> =
            records.iter().flat_map(|(key, value)| extended_record(key, value)).collect();
        self.entry(b'x', "PaxHeader", "", &text)
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

pub(super) fn gzip(tar: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(tar).unwrap();
    gzip.finish().unwrap()
}

/// An archive, what it must be refused as, and which entry of it.
pub(super) struct Hostile {
    pub(super) desc: &'static str,
    pub(super) archive: Vec<u8>,
    pub(super) refusal: Refusal,
    pub(super) entry: u64,
}

pub(super) fn limits() -> Limits {
    Limits::default().with_max_entries(1000).with_max_file_bytes(1 << 20).with_max_bytes(4 << 20)
}

/// Every kind of attack that is known, `outside` being the directory beside the root.
pub(super) fn hostile(outside: &Path) -> Vec<Hostile> {
    let absolute = outside.join("canary").display().to_string();
    let outside = outside.display().to_string();
    let tar = Tar::default;
    let link_outside = |target: &str| Refusal::LinkOutside { target: target.to_owned() };
    let hard = |target: &str| Refusal::HardLinkTarget { target: target.to_owned() };
    let through = |through: &str| Refusal::ThroughLink { through: through.to_owned() };
    let keyword = |keyword: &str| Refusal::ExtendedKeyword { keyword: keyword.to_owned() };
    let long = "x".repeat(256);
    let deep = "d/".repeat(MAX_DEPTH + 1) + "f";
    let wide = "y/".repeat(MAX_PATH_BYTES / 2 + 1);
    let mut all: Vec<(&'static str, Vec<u8>, Refusal, u64)> = vec![
        ("a path that climbs", tar().file("../canary").end(), Refusal::ParentDirectory, 1),
        (
            "a path that climbs in the middle",
            tar().file("a/../../canary").end(),
            Refusal::ParentDirectory,
            1,
        ),
        (
            "a path that climbs at its end",
            tar().entry(b'5', "a/..", "", b"").end(),
            Refusal::ParentDirectory,
            1,
        ),
        (
            "a path that climbs behind ./",
            tar().file("./../canary").end(),
            Refusal::ParentDirectory,
            1,
        ),
        ("an absolute path", tar().file(&absolute).end(), Refusal::Absolute, 1),
        ("a path of two slashes", tar().file("//etc/passwd").end(), Refusal::Absolute, 1),
        ("an absolute path behind ./", tar().file(".//etc/passwd").end(), Refusal::OddPath, 1),
        ("no path", tar().file("").end(), Refusal::OddPath, 1),
        ("an empty component", tar().file("a//b").end(), Refusal::OddPath, 1),
        ("a dot component", tar().file("a/./b").end(), Refusal::OddPath, 1),
        ("a file for the root itself", tar().file(".").end(), Refusal::OddPath, 1),
        (
            "a link for the root itself",
            tar().entry(b'2', "./", "a", b"").end(),
            Refusal::FileWithSlash,
            1,
        ),
        ("control characters", tar().file("a\x1b[2Jb").end(), Refusal::ControlCharacters, 1),
        ("a line feed", tar().file("a\nb").end(), Refusal::ControlCharacters, 1),
        ("bytes that are no UTF-8", tar().changed(|b| b[0] = 0xff).end(), Refusal::NotUtf8, 1),
        (
            "a component too long",
            tar().pax(&[("path", long.as_bytes())]).file("f").end(),
            Refusal::NameTooLong { limit: MAX_COMPONENT_BYTES },
            1,
        ),
        (
            "a path too long",
            tar().pax(&[("path", wide.as_bytes())]).file("f").end(),
            Refusal::NameTooLong { limit: MAX_PATH_BYTES },
            1,
        ),
        (
            "a path too deep",
            tar().pax(&[("path", deep.as_bytes())]).file("f").end(),
            Refusal::TooDeep { limit: MAX_DEPTH },
            1,
        ),
        (
            "a path of 4 GiB",
            tar().sized(b'L', "././@LongLink", "", 4 << 30, b"a", |_| {}).end(),
            Refusal::NameTooLong { limit: MAX_PATH_BYTES + 1 },
            1,
        ),
        ("the same file twice", tar().file("a").file("a").end(), Refusal::Duplicate, 2),
        ("the same file as ./", tar().file("a").file("./a").end(), Refusal::Duplicate, 2),
        (
            "a directory twice",
            tar().entry(b'5', "a", "", b"").entry(b'5', "a/", "", b"").end(),
            Refusal::Duplicate,
            2,
        ),
        ("a file where a directory is", tar().file("a/b").file("a").end(), Refusal::Duplicate, 2),
        (
            "a link where a directory is",
            tar().file("a/b").entry(b'2', "a", "c", b"").end(),
            Refusal::Duplicate,
            2,
        ),
        (
            "a directory where a file is",
            tar().file("a").entry(b'5', "a", "", b"").end(),
            Refusal::Duplicate,
            2,
        ),
        ("a file below a file", tar().file("a").file("a/b").end(), through("a"), 2),
        (
            "a file through a link",
            tar().entry(b'2', "a", "b", b"").file("a/canary").end(),
            through("a"),
            2,
        ),
        (
            "a directory through a link",
            tar().entry(b'2', "a", ".", b"").entry(b'5', "a/b", "", b"").end(),
            through("a"),
            2,
        ),
        (
            "a link and its directory again",
            tar().entry(b'2', "a", ".", b"").entry(b'5', "a", "", b"").end(),
            Refusal::Duplicate,
            2,
        ),
        (
            "a link to an absolute path",
            tar().entry(b'2', "a", &outside, b"").file("a/canary").end(),
            link_outside(&outside),
            1,
        ),
        (
            "a link to /proc",
            tar().entry(b'2', "a", "/proc/self/root", b"").end(),
            link_outside("/proc/self/root"),
            1,
        ),
        ("a link out", tar().entry(b'2', "a", "..", b"").end(), link_outside(".."), 1),
        (
            "a link out of a directory",
            tar().entry(b'2', "d/a", "../../canary", b"").end(),
            link_outside("../../canary"),
            1,
        ),
        (
            "a link that climbs later",
            tar().entry(b'2', "d/a", "x/../../..", b"").end(),
            link_outside("x/../../.."),
            1,
        ),
        (
            "a link through another link",
            tar().entry(b'2', "d/up", "..", b"").entry(b'2', "e", "d/up/..", b"").end(),
            link_outside("d/up/.."),
            2,
        ),
        ("a link to nothing", tar().entry(b'2', "a", "", b"").end(), link_outside(""), 1),
        (
            "a hard link out",
            tar().entry(b'1', "a", "../canary", b"").end(),
            Refusal::ParentDirectory,
            1,
        ),
        (
            "a hard link to an absolute path",
            tar().entry(b'1', "a", &absolute, b"").end(),
            Refusal::Absolute,
            1,
        ),
        (
            "a hard link to a link",
            tar().entry(b'2', "a", "b", b"").entry(b'1', "c", "a", b"").end(),
            hard("a"),
            2,
        ),
        (
            "a hard link to a directory",
            tar().entry(b'5', "a", "", b"").entry(b'1', "c", "a", b"").end(),
            hard("a"),
            2,
        ),
        (
            "a hard link to what comes later",
            tar().entry(b'1', "c", "a", b"").file("a").end(),
            hard("a"),
            1,
        ),
        (
            "a hard link with content",
            tar().file("a").entry(b'1', "c", "a", b"content").end(),
            Refusal::ContentOfNoFile,
            2,
        ),
        (
            "a directory with content",
            tar().entry(b'5', "a", "", b"content").end(),
            Refusal::ContentOfNoFile,
            1,
        ),
        (
            "a link with content",
            tar().entry(b'2', "a", "b", b"content").end(),
            Refusal::ContentOfNoFile,
            1,
        ),
        ("a file that is called as a directory", tar().file("a/").end(), Refusal::FileWithSlash, 1),
        (
            "a character device",
            tar().entry(b'3', "a", "", b"").end(),
            Refusal::Kind { kind: "character device" },
            1,
        ),
        (
            "a block device",
            tar().entry(b'4', "a", "", b"").end(),
            Refusal::Kind { kind: "block device" },
            1,
        ),
        ("a FIFO", tar().entry(b'6', "a", "", b"").end(), Refusal::Kind { kind: "FIFO" }, 1),
        (
            "an old sparse file",
            tar().entry(b'S', "a", "", b"").end(),
            Refusal::Kind { kind: "sparse file" },
            1,
        ),
        (
            "a part of another volume",
            tar().entry(b'M', "a", "", b"").end(),
            Refusal::Kind { kind: "part of a file of another volume" },
            1,
        ),
        (
            "an unknown type",
            tar().entry(b'Z', "a", "", b"").end(),
            Refusal::Kind { kind: "thing of an unknown type" },
            1,
        ),
        (
            "a sparse file of 8 EiB",
            tar().pax(&[("GNU.sparse.realsize", b"9223372036854775807")]).file("a").end(),
            keyword("GNU.sparse.realsize"),
            1,
        ),
        (
            "a name in a sparse header",
            tar().pax(&[("GNU.sparse.name", b"../canary")]).file("a").end(),
            keyword("GNU.sparse.name"),
            1,
        ),
        (
            "another real size",
            tar().pax(&[("SCHILY.realsize", b"9")]).file("a").end(),
            keyword("SCHILY.realsize"),
            1,
        ),
        (
            "another character set",
            tar().pax(&[("hdrcharset", b"BINARY")]).file("a").end(),
            keyword("hdrcharset"),
            1,
        ),
        (
            "a path for all entries",
            tar().entry(b'g', "g", "", &extended_record("path", b"../x")).file("a").end(),
            keyword("path"),
            1,
        ),
        (
            "a size that hides an entry",
            tar().pax(&[("size", b"1031")]).entry(b'0', "a", "", b"").file("../canary").end(),
            Refusal::TwoSizes,
            1,
        ),
        (
            "a size that shows a hidden entry",
            tar().pax(&[("size", b"0")]).entry(b'0', "a", "", &tar().file("../canary").0).end(),
            Refusal::TwoSizes,
            1,
        ),
        (
            "a PAX path that climbs",
            tar().pax(&[("path", b"../canary")]).file("a").end(),
            Refusal::ParentDirectory,
            1,
        ),
        (
            "a PAX target that climbs",
            tar().pax(&[("linkpath", b"../canary")]).entry(b'2', "a", "b", b"").end(),
            link_outside("../canary"),
            1,
        ),
        (
            "a PAX path with a NUL",
            tar().pax(&[("path", b"a\0/../b")]).file("a").end(),
            Refusal::ControlCharacters,
            1,
        ),
        ("an empty PAX path", tar().pax(&[("path", b"")]).file("a").end(), Refusal::Extended, 1),
        (
            "a PAX path twice",
            tar().pax(&[("path", b"a"), ("path", b"../b")]).file("a").end(),
            Refusal::ExtendedTwice,
            1,
        ),
        (
            "PAX records that lie about their length",
            tar().entry(b'x', "x", "", b"99 path=a\n").file("a").end(),
            Refusal::Extended,
            1,
        ),
        (
            "a PAX size that is no number",
            tar().pax(&[("size", b"+7")]).file("a").end(),
            Refusal::Extended,
            1,
        ),
        (
            "a PAX time that is no time",
            tar().pax(&[("mtime", b"1e9")]).file("a").end(),
            keyword("mtime"),
            1,
        ),
        (
            "a GNU name that climbs",
            tar().entry(b'L', "././@LongLink", "", b"../canary\0").file("a").end(),
            Refusal::ParentDirectory,
            1,
        ),
        (
            "a GNU name with a NUL inside",
            tar().entry(b'L', "././@LongLink", "", b"a\0/../b\0").file("a").end(),
            Refusal::Extended,
            1,
        ),
        (
            "a GNU name without an end",
            tar().entry(b'L', "././@LongLink", "", b"abc").file("a").end(),
            Refusal::Extended,
            1,
        ),
        (
            "a GNU name and a PAX path",
            tar().entry(b'L', "././@LongLink", "", b"b\0").pax(&[("path", b"c")]).file("a").end(),
            Refusal::ExtendedTwice,
            1,
        ),
        (
            "a PAX path and a GNU name",
            tar().pax(&[("path", b"c")]).entry(b'L', "././@LongLink", "", b"b\0").file("a").end(),
            Refusal::ExtendedTwice,
            1,
        ),
        (
            "two GNU names",
            tar().entry(b'L', "l", "", b"b\0").entry(b'L', "l", "", b"c\0").file("a").end(),
            Refusal::ExtendedTwice,
            1,
        ),
        (
            "a global header in between",
            tar().pax(&[("path", b"c")]).entry(b'g', "g", "", b"").file("a").end(),
            Refusal::ExtendedAlone,
            1,
        ),
        (
            "an extended header of nothing",
            tar().pax(&[("path", b"c")]).end(),
            Refusal::ExtendedAlone,
            1,
        ),
        (
            "a prefix in a GNU header",
            tar()
                .changed(|b| {
                    b[257..265].copy_from_slice(b"ustar  \0");
                    b[345] = b'x';
                })
                .end(),
            Refusal::AmbiguousPrefix,
            1,
        ),
        (
            "a prefix that climbs",
            tar().changed(|b| b[345..347].copy_from_slice(b"..")).end(),
            Refusal::ParentDirectory,
            1,
        ),
        (
            "a prefix that is absolute",
            tar().changed(|b| b[345..349].copy_from_slice(b"/etc")).end(),
            Refusal::Absolute,
            1,
        ),
        (
            "a header of before 1988",
            tar().changed(|b| b[257..265].fill(0)).end(),
            Refusal::Dialect,
            1,
        ),
        (
            "a size in binary",
            tar().changed(|b| b[124..136].copy_from_slice(b"\x80\0\0\0\0\0\0\0\0\0\0\x07")).end(),
            Refusal::Number { field: "size" },
            1,
        ),
        (
            "a negative size",
            tar().changed(|b| b[124..136].fill(0xff)).end(),
            Refusal::Number { field: "size" },
            1,
        ),
        (
            "a size with a gap",
            tar().changed(|b| b[124..136].copy_from_slice(b"0000000007 1")).end(),
            Refusal::Number { field: "size" },
            1,
        ),
        (
            "a mode that is no number",
            tar().changed(|b| b[100] = b'9').end(),
            Refusal::Number { field: "mode" },
            1,
        ),
        (
            "a wrong checksum",
            {
                let mut t = tar().file("a").end();
                t[0] = b'b';
                t
            },
            Refusal::Checksum,
            1,
        ),
        (
            "a lone block of zeros",
            tar().file("a").content(&[0; 512]).file("b").end(),
            Refusal::AfterEnd,
            2,
        ),
        (
            "an archive behind the archive",
            {
                let mut t = tar().file("a").end();
                t.extend(tar().file("../canary").end());
                t
            },
            Refusal::AfterEnd,
            2,
        ),
        (
            "two megabytes of zeros at the end",
            {
                let mut t = tar().file("a").end();
                t.resize(2 << 20, 0);
                t
            },
            Refusal::AfterEnd,
            2,
        ),
        ("no end", tar().file("a").0, Refusal::Truncated, 2),
        ("an end of one block", tar().file("a").content(&[0; 512]).0, Refusal::Truncated, 2),
        ("half a file", tar().file("a").0[..514].to_vec(), Refusal::Truncated, 1),
        ("half a header", tar().file("a").0[..100].to_vec(), Refusal::Truncated, 1),
        ("nothing", Vec::new(), Refusal::Truncated, 1),
        (
            "a file larger than allowed",
            tar().sized(b'0', "a", "", 5 << 20, b"", |_| {}).end(),
            Refusal::FileTooLarge { limit: 1 << 20 },
            1,
        ),
        (
            "more bytes than allowed",
            {
                let big = vec![7; 1 << 20];
                (0..5).fold(tar(), |t, n| t.entry(b'0', &format!("f{n}"), "", &big)).end()
            },
            Refusal::TooLarge { limit: 4 << 20 },
            4,
        ),
        (
            "more entries than allowed",
            (0..1001).fold(tar(), |t, n| t.entry(b'0', &format!("f{n}"), "", b"")).end(),
            Refusal::TooManyEntries { limit: 1000 },
            1001,
        ),
        (
            "directories that paths imply",
            {
                (0..10)
                    .fold(tar(), |t, n| {
                        let path = format!("{n}/") + &"d/".repeat(MAX_DEPTH - 2) + "f";
                        t.pax(&[("path", path.as_bytes())]).file("f")
                    })
                    .end()
            },
            Refusal::TooManyEntries { limit: 1000 },
            8,
        ),
    ]
    .into_iter()
    .map(|(desc, tar, refusal, entry)| (desc, gzip(&tar), refusal, entry))
    .collect();
    let good = gzip(&tar().file("a").end());
    let twice = [&good[..], &good[..]].concat();
    let mut garbage = good.clone();
    garbage.extend_from_slice(b"garbage");
    let mut damaged = good.clone();
    let at = damaged.len() - 6;
    damaged[at] ^= 1;
    let cut = good[..good.len() - 9].to_vec();
    // 30 MB of zeros, which no limit but that of the ratio minds.
    let zeros = vec![0; 30_000_000];
    let bomb = gzip(&tar().entry(b'0', "zeros", "", &zeros).end());
    all.extend([
        ("a second gzip member", twice, Refusal::AfterGzip, 2),
        ("garbage after the gzip data", garbage, Refusal::AfterGzip, 2),
        ("a wrong CRC", damaged, Refusal::Gzip, 2),
        ("half of the gzip data", cut, Refusal::Truncated, 2),
        ("no gzip at all", b"PK\x03\x04 is something else entirely".to_vec(), Refusal::Gzip, 1),
        ("a gzip in a gzip", gzip(&gzip(&tar().file("a").end())), Refusal::Truncated, 1),
        ("a bomb", bomb, Refusal::Ratio { limit: 200 }, 2),
    ]);
    all.into_iter()
        .map(|(desc, archive, refusal, entry)| Hostile { desc, archive, refusal, entry })
        .collect()
}

/// Everything below a directory, with what is in it.
fn snapshot(dir: &Path) -> Vec<(std::path::PathBuf, fs::FileType, Vec<u8>)> {
    let mut all = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                dirs.push(entry.path());
            }
            let content = if kind.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
            all.push((entry.path(), kind, content));
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn every_hostile_archive_is_refused_by_name_and_nothing_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("canary"), b"alive").unwrap();
    fs::create_dir(dir.path().join("parent")).unwrap();
    let root = dir.path().join("parent/root");
    let before = snapshot(dir.path());
    let hostile = hostile(dir.path());
    assert!(hostile.len() >= 40, "{}", hostile.len());
    for Hostile { desc, archive, refusal, entry } in hostile {
        // The bomb passes every limit but the ratio's.
        let is_bomb = matches!(refusal, Refusal::Ratio { .. });
        let limits = if is_bomb { Limits::default() } else { limits() };
        match unpack(&archive[..], &root, &limits).unwrap_err() {
            ArchiveError::Refused { entry: at, refusal: found, name } => {
                assert_eq!(found, refusal, "{desc}: {name}");
                // Where the bomb is felt depends on how it is read.
                assert!(at == entry || is_bomb, "{desc}: entry {at}, not {entry}");
                assert!(!name.contains(char::is_control), "{desc}: {name:?}");
            }
            other => panic!("{desc}: {other:?}"),
        }
        assert_eq!(snapshot(dir.path()), before, "{desc}");
    }
}
