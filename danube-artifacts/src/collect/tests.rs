//! Trees that mean harm, and globs.

use super::*;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

fn patterns(globs: &[&str]) -> Patterns {
    Patterns::parse(&globs.iter().map(|glob| (*glob).to_owned()).collect::<Vec<_>>()).unwrap()
}

fn write(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn find_in(root: &Path, globs: &[&str]) -> Found {
    find(root, &patterns(globs), &CollectLimits::default(), &[]).unwrap()
}

fn names(found: &Found) -> Vec<&str> {
    found.files.iter().map(|file| file.name.as_str()).collect()
}

fn skipped(found: &Found) -> Vec<(&str, &str)> {
    found.skipped.iter().map(|s| (s.path.as_str(), s.reason.as_str())).collect()
}

#[test]
fn globs_match_as_documented() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("a.bin", &["a.bin"], &["b/a.bin", "a.bin.x", "A.bin"]),
        ("./a.bin", &["a.bin"], &["b/a.bin"]),
        ("*.bin", &["a.bin", ".hidden.bin"], &["d/a.bin", "a.bi"]),
        ("out/*", &["out/a", "out/.b"], &["out/d/a", "out"]),
        ("out/**", &["out/a", "out/d/e/f"], &["out", "outer/a"]),
        ("**/*.xml", &["a.xml", "d/a.xml", "d/e/a.xml"], &["a.xmlx"]),
        ("**", &["a", "d/e/f"], &[]),
        ("d/**/x", &["d/x", "d/e/x", "d/e/f/x"], &["x", "d/e/y"]),
        ("{a,b/c}.txt", &["a.txt", "b/c.txt"], &["c.txt"]),
        ("[a-c]?", &["a1", "cz"], &["d1", "a", "a/"]),
        ("\\*", &["*"], &["a"]),
        ("größe-*", &["größe-1"], &["grosse-1"]),
    ];
    for (glob, yes, no) in cases {
        let patterns = patterns(&[glob]);
        for path in *yes {
            assert!(patterns.matches(path), "{glob} does not match {path}");
            let dirs = path.rsplit_once('/').map_or("", |(dirs, _)| dirs);
            let mut dir = String::new();
            for component in dirs.split('/').filter(|c| !c.is_empty()) {
                dir = if dir.is_empty() {
                    component.to_owned()
                } else {
                    format!("{dir}/{component}")
                };
                assert!(patterns.lead_below(dir.as_bytes()), "{glob} does not lead below {dir}");
            }
        }
        for path in *no {
            assert!(!patterns.matches(path), "{glob} matches {path}");
        }
    }
}

#[test]
fn globs_lead_nowhere_else() {
    for (glob, dirs) in [
        ("out/*.bin", &["other", "out/deep", "outer", "x/out"][..]),
        ("*", &["a"]),
        ("a/b/c", &["b", "a/c", "a/b/c", "a/b/c/d"]),
        ("a/**", &["b", "b/a"]),
    ] {
        let patterns = patterns(&[glob]);
        for dir in dirs {
            assert!(!patterns.lead_below(dir.as_bytes()), "{glob} leads below {dir}");
        }
    }
}

#[test]
fn globs_that_leave_the_tree_or_are_none_are_refused_by_name() {
    let long = "a".repeat(MAX_PATTERN_BYTES + 1);
    let bad = [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "..",
        "a//b",
        "out/",
        "./",
        "a/./b",
        "a\0b",
        "a\nb",
        "[a",
        "{a",
        "a\\",
        &long,
    ];
    for glob in bad {
        let error = Patterns::parse(&["fine".to_owned(), glob.to_owned()]).unwrap_err();
        assert_eq!(error.class(), danube_core::ErrorClass::Invalid, "{glob:?}");
        let start: String = glob.chars().take(80).collect();
        assert!(error.to_string().contains(&format!("{start:?}")), "{error}");
    }
    let many = vec!["a".to_owned(); MAX_PATTERNS + 1];
    assert!(matches!(Patterns::parse(&many), Err(Error::TooMany { .. })));
    assert!(patterns(&[]).is_empty());
}

#[test]
fn what_matches_is_found_once_in_order_and_the_rest_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["b", "out/z.bin", "out/a.bin", "out/deep/er/c.bin", "other/d.bin", "out/n.txt"] {
        write(dir.path(), path, b"12345");
    }
    let found = find_in(dir.path(), &["out/**", "out/*.bin", "**/a.bin", "b", "nothing/*.x"]);
    assert_eq!(names(&found), ["b", "out/a.bin", "out/deep/er/c.bin", "out/n.txt", "out/z.bin"]);
    assert!(found.files.iter().all(|file| file.size_bytes == 5));
    assert_eq!(found.unmatched, ["nothing/*.x"]);
    assert_eq!(skipped(&found), []);
    assert_eq!(names(&find_in(dir.path(), &["out/*.bin"])), ["out/a.bin", "out/z.bin"]);
    assert_eq!(find_in(dir.path(), &[]), Found::default());
    let named_dir = find_in(dir.path(), &["out"]);
    assert_eq!(named_dir.files, []);
    assert!(named_dir.skipped[0].reason.contains("/**") && named_dir.unmatched.is_empty());
}

#[test]
fn hostile_trees_are_told_and_never_followed() {
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "token", b"secret");
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(root, "out/good", b"good");
    write(root, "out/empty", b"");
    write(root, "out/.danube/x.sig", b"forged");
    write(root, "out/x.sig/inner", b"x");
    write(root, "provenance.json/x", b"x");
    write(root, "out/line\nbreak\u{1b}[31m", b"x");
    symlink(outside.path().join("token"), root.join("out/file_link")).unwrap();
    symlink(outside.path(), root.join("out/dir_link")).unwrap();
    symlink("/proc/self", root.join("out/proc")).unwrap();
    symlink("/nowhere", root.join("out/dangling")).unwrap();
    symlink(".", root.join("out/loop")).unwrap();
    symlink("good", root.join("out/inner_link")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, root.join("out/fifo"), FileType::Fifo, mode, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("out/socket")).unwrap();
    fs::write(root.join("out").join(OsStr::from_bytes(b"bad\xff")), b"x").unwrap();

    let found = find_in(root, &["out/**", "provenance.json/*"]);
    assert_eq!(names(&found), ["out/good", "provenance.json/x"]);
    let told = skipped(&found);
    let link = "is a symbolic link, which is not followed";
    for (path, reason) in [
        ("out/.danube", "is reserved for signatures"),
        ("out/bad\u{fffd}", "has a name that is not UTF-8"),
        ("out/dangling", link),
        ("out/dir_link", link),
        ("out/empty", "is empty"),
        ("out/fifo", "is not a regular file"),
        ("out/file_link", link),
        ("out/inner_link", link),
        ("out/line\\nbreak\\u{1b}[31m", "must not contain control characters"),
        ("out/loop", link),
        ("out/proc", link),
        ("out/socket", "is not a regular file"),
        ("out/x.sig/inner", "must not have a directory that ends in '.sig'"),
    ] {
        assert!(told.contains(&(path, reason)), "{path} is not told: {told:#?}");
    }
    assert_eq!(told.len(), 13);
    assert_eq!(found.unmatched, [""; 0]);

    // An intermediate link, and the names of what is there: the glob leads through neither.
    assert_eq!(names(&find_in(root, &["out/dir_link/token", "out/proc/environ"])), [""; 0]);
    for hostile in
        ["out/file_link", "out/dir_link/token", "out/proc/environ", "out/fifo", "out/loop/good"]
    {
        assert!(open_beneath(root, &hostile.parse().unwrap()).is_err(), "{hostile} was opened");
    }
    let mut text = String::new();
    open_beneath(root, &"out/good".parse().unwrap()).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "good");
}

#[test]
fn the_root_itself_may_be_a_link_and_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "real/a", b"x");
    symlink("real", dir.path().join("link")).unwrap();
    assert_eq!(names(&find_in(&dir.path().join("link"), &["*"])), ["a"]);
    let missing = dir.path().join("missing");
    let error = find(&missing, &patterns(&["*"]), &CollectLimits::default(), &[]).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn excluded_places_are_known_by_any_path() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "work/a", b"x");
    write(dir.path(), "work/data/danube.db", b"x");
    write(dir.path(), "work/one_file", b"x");
    let roundabout = dir.path().join("work/../work/data/../data");
    let exclude = [roundabout, dir.path().join("work/one_file"), dir.path().join("missing")];
    let root = dir.path().join("work");
    let limits = CollectLimits::default();
    let found = find(&root, &patterns(&["**"]), &limits, &exclude).unwrap();
    assert_eq!(names(&found), ["a"]);
    let nothing = find(&root, &patterns(&["**"]), &limits, &[root.join(".")]).unwrap();
    assert_eq!(nothing.files, []);
}

#[test]
fn the_limits_hold() {
    let dir = tempfile::tempdir().unwrap();
    for at in 0..11 {
        write(dir.path(), &format!("f{at}"), b"12");
    }
    write(dir.path(), "d1/d2/d3/deep", b"x");
    write(dir.path(), "long", b"12345");
    let limits = CollectLimits::default().with_max_files(10);
    let error = find(dir.path(), &patterns(&["f*"]), &limits, &[]).unwrap_err();
    assert!(matches!(error, Error::TooMany { limit: 10, .. }), "{error}");
    let limits = CollectLimits::default().with_max_file_bytes(4).with_max_depth(2);
    let found = find(dir.path(), &patterns(&["long", "d1/**"]), &limits, &[]).unwrap();
    assert_eq!(found.files, []);
    let told = skipped(&found);
    assert_eq!(told[0], ("d1/d2/d3", "lies deeper than 2 directories"));
    assert_eq!(told[1], ("long", "has 5 bytes, which is over the limit of 4"));

    let limits = CollectLimits::default().with_max_total_bytes(21);
    let error = find(dir.path(), &patterns(&["f*"]), &limits, &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "more than 21 bytes are in the files that match: narrow the globs"
    );
    let limits = limits.with_max_total_bytes(22);
    assert_eq!(find(dir.path(), &patterns(&["f*"]), &limits, &[]).unwrap().files.len(), 11);

    for at in 0..MAX_SKIPPED + 5 {
        symlink("x", dir.path().join(format!("link{at}"))).unwrap();
    }
    let found = find_in(dir.path(), &["link*"]);
    assert_eq!((found.skipped.len(), found.more_skipped), (MAX_SKIPPED, 5));
}

#[test]
fn what_is_beyond_the_limits_is_left_out_by_name_and_the_first_by_name_stay() {
    let dir = tempfile::tempdir().unwrap();
    // Made in an order that is not theirs.
    for (path, bytes) in [("z", 1), ("b/x", 50), ("a", 10), ("c", 40), ("b/a", 30), ("d", 5)] {
        write(dir.path(), path, &vec![b'.'; bytes]);
    }
    let limits = CollectLimits::default().with_beyond(Beyond::LeaveOut).with_max_files(5);
    let found = find(dir.path(), &patterns(&["**"]), &limits, &[]).unwrap();
    assert_eq!(names(&found), ["a", "b/a", "b/x", "c", "d"]);
    assert_eq!(skipped(&found), [("z", "is beyond the limit of 5 files")]);
    // One that does not fit any more makes room for those behind it that do.
    let limits = limits.with_max_total_bytes(80);
    let found = find(dir.path(), &patterns(&["**"]), &limits, &[]).unwrap();
    assert_eq!(names(&found), ["a", "b/a", "c"]);
    let told = "is beyond the limit of 80 bytes for all files";
    assert_eq!(skipped(&found)[..2], [("b/x", told), ("d", told)]);
}

#[test]
fn the_preset_finds_what_cts_lite_finds() {
    let dir = tempfile::tempdir().unwrap();
    let found_there = [
        ".hidden.csv",
        "a.csv",
        "analysis.parquet",
        "b.json",
        "c.html",
        "d.png",
        "e.pdf",
        "my_analysis_2",
        "output",
        "the-report.txt",
        "tool_output.bin",
    ];
    for path in found_there {
        write(dir.path(), path, b"x");
    }
    // Neither below a directory, nor by another case, nor empty, nor through a link, nor a directory.
    for path in ["sub/a.csv", "reports/a.csv", "A.CSV", "data.parquet", "csv"] {
        write(dir.path(), path, b"x");
    }
    write(dir.path(), "empty.csv", b"");
    symlink("a.csv", dir.path().join("link.csv")).unwrap();
    let patterns = Patterns::parse(&[]).unwrap().with_preset(Preset::Data);
    let found = find(dir.path(), &patterns, &CollectLimits::default(), &[]).unwrap();
    assert_eq!(names(&found), found_there);
    let told = skipped(&found);
    let link = ("link.csv", "is a symbolic link, which is not followed");
    assert_eq!(told, [("empty.csv", "is empty"), link]);
    assert!(found.unmatched.is_empty() && found.unmatched_presets.is_empty(), "{found:?}");

    // A preset that finds nothing is told once, and not glob by glob.
    let none = tempfile::tempdir().unwrap();
    let patterns = Patterns::parse(&["x*".to_owned()]).unwrap().with_preset(Preset::Data);
    let found = find(none.path(), &patterns, &CollectLimits::default(), &[]).unwrap();
    assert_eq!(found.unmatched, ["x*"]);
    assert_eq!(found.unmatched_presets, [Preset::Data]);
    for preset in Preset::ALL {
        assert_eq!(preset.to_string().parse::<Preset>().unwrap(), *preset);
    }
    assert!("date".parse::<Preset>().unwrap_err().to_string().contains("there is data"));
}

#[test]
fn what_is_excluded_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["out/a.bin", "out/a.tmp", "out/cache/b.bin", "out/x/cache/c.bin", "top.tmp"] {
        write(dir.path(), path, b"x");
    }
    symlink("a.bin", dir.path().join("out/link.tmp")).unwrap();
    let excluded = |globs: &[&str]| {
        let exclude: Vec<String> = globs.iter().map(|glob| (*glob).to_owned()).collect();
        patterns(&["**"]).without(&exclude).unwrap()
    };
    let find = |patterns| find(dir.path(), &patterns, &CollectLimits::default(), &[]).unwrap();
    let found = find(excluded(&["**/*.tmp", "out/cache"]));
    assert_eq!(names(&found), ["out/a.bin", "out/x/cache/c.bin"]);
    // Not a word about the link either.
    assert_eq!(skipped(&found), []);
    assert_eq!(names(&find(excluded(&["*.tmp", "./**/cache", "out/*.*"]))), [""; 0]);
    assert_eq!(find(excluded(&["**"])).unmatched, ["**"]);
    let error = patterns(&["a"]).without(&["../x".to_owned()]).unwrap_err();
    assert!(error.to_string().contains("\"../x\""), "{error}");
}

#[test]
fn a_tree_that_changes_under_the_walk_gives_files_of_the_tree_or_nothing() {
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "a", b"secret");
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(root, "out/a", b"inside");
    write(root, "spare/a", b"inside");
    let stop = AtomicBool::new(false);
    let swap = |path: &str, with: &str| {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        let cwd = rustix::fs::CWD;
        rustix::fs::renameat_with(cwd, root.join(path), cwd, root.join(with), flags).unwrap();
    };
    symlink(outside.path(), root.join("dir_link")).unwrap();
    symlink(outside.path().join("a"), root.join("file_link")).unwrap();
    let mut opened = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                swap("out", "dir_link");
                swap("out", "dir_link");
                swap("out/a", "file_link");
                swap("out/a", "file_link");
            }
        });
        for _ in 0..3_000 {
            for file in find_in(root, &["out/**"]).files {
                if let Ok(mut file) = open_beneath(root, &file.name) {
                    let mut text = String::new();
                    file.read_to_string(&mut text).unwrap();
                    assert_eq!(text, "inside");
                    opened += 1;
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(opened > 0, "the walk never saw a file");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]

    /// Directories that no glob leads into are not read: that must leave nothing out.
    #[test]
    fn what_is_found_is_what_matches(
        paths in proptest::collection::btree_set("(a|b|c[.]d)(/(a|b|c[.]d)){0,3}/f[xy]", 0..20),
        globs in proptest::collection::vec(
            r"(a|[*]|[*][*]|[?]|\{a,b\}|\[ab\]|c[.][*]|\{a/b,c[.]d\})(/(a|[*]|[*][*]|[?]|c[.]d)){0,3}/(f[xy]|[*]|[*][*]|f[?])",
            1..4,
        ),
        excluded in proptest::collection::vec(
            r"(a|b|[*][*]|[?])(/(a|[*]|[*][*]|f[xy])){0,2}",
            0..2,
        ),
    ) {
        let dir = tempfile::tempdir().unwrap();
        for path in &paths {
            write(dir.path(), path, b"x");
        }
        let globs: Vec<&str> = globs.iter().map(String::as_str).collect();
        let patterns = patterns(&globs).without(&excluded).unwrap();
        let found = find(dir.path(), &patterns, &CollectLimits::default(), &[]).unwrap();
        let wanted: Vec<&str> =
            paths.iter().map(String::as_str).filter(|path| patterns.matches(path)).collect();
        proptest::prop_assert_eq!(names(&found), wanted, "{:?} without {:?}", globs, excluded);
    }
}

#[test]
fn what_has_become_something_else_is_not_there_and_what_cannot_be_opened_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("a/dir")).unwrap();
    fs::write(root.join("a/file"), "x").unwrap();
    std::os::unix::fs::symlink("file", root.join("a/link")).unwrap();
    std::os::unix::fs::symlink("a", root.join("way")).unwrap();
    let open = |name: &str| open_if_still_there(root, &name.parse().unwrap());
    assert!(open("a/file").unwrap().is_some());
    for gone in ["a/gone", "gone/file", "a/dir", "a/link", "way/file", "a/file/below"] {
        assert!(open(gone).unwrap().is_none(), "{gone}");
    }
    // Longer than any name on this system can be, although each part is legal.
    assert!(open_if_still_there(&root.join("x".repeat(300)), &"a".parse().unwrap()).is_err());
}
