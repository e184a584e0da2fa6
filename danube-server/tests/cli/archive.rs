//! `danube artifacts pack` and `unpack`.

use std::fs;
use std::process::Command;

use crate::harness::{Danube, said, stderr};

#[test]
fn a_directory_is_packed_and_unpacked_without_a_data_directory() {
    let danube = Danube::new();
    let work = danube.work();
    fs::create_dir_all(work.join("tree/bin")).unwrap();
    fs::write(work.join("tree/bin/tool"), "content").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", work.join("tree/out")).unwrap();
    let out = danube.run(&["artifacts", "pack", "tree", "one.tar.gz"]);
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    assert!(stderr(&out).contains("left out: out: it is a symbolic link out of the archive"));
    danube.expect(0, &["artifacts", "pack", "tree", "two.tar.gz"]);
    assert!(
        fs::read(work.join("one.tar.gz")).unwrap() == fs::read(work.join("two.tar.gz")).unwrap()
    );
    danube.expect(0, &["artifacts", "unpack", "one.tar.gz", "copy"]);
    assert_eq!(fs::read(work.join("copy/bin/tool")).unwrap(), b"content");
    assert_eq!(fs::read_dir(work.join("copy")).unwrap().count(), 1);
    assert!(fs::read_dir(danube.data()).unwrap().next().is_none(), "nothing was opened");

    // What exists is kept, and an archive does not pack itself.
    danube.expect(1, &["artifacts", "pack", "tree", "one.tar.gz"]);
    danube.expect(1, &["artifacts", "unpack", "one.tar.gz", "copy"]);
    danube.expect(2, &["artifacts", "pack", "tree", "tree/bin/self.tar.gz"]);
    danube.expect(1, &["artifacts", "pack", "missing", "x.tar.gz"]);
    danube.expect(1, &["artifacts", "unpack", "missing.tar.gz", "x"]);
    let left: Vec<_> = fs::read_dir(work).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "{left:?}");
}

#[test]
fn a_hostile_archive_is_refused_with_exit_code_1_and_leaves_nothing() {
    let danube = Danube::new();
    let work = danube.work();
    fs::write(work.join("canary"), "alive").unwrap();
    let script = "mkdir sub && cd sub && echo dead > x && \
        tar -czPf ../evil.tar.gz --transform 's,x,../canary,' x";
    assert!(Command::new("sh").args(["-c", script]).current_dir(work).status().unwrap().success());
    let out = danube.run(&["artifacts", "unpack", "evil.tar.gz", "copy"]);
    assert_eq!(out.status.code(), Some(1), "{}", said(&out));
    let expected = "refused: evil.tar.gz: entry 1 (../canary): its path has a '..' component";
    assert!(stderr(&out).contains(expected), "{}", said(&out));
    assert_eq!(fs::read_to_string(work.join("canary")).unwrap(), "alive");
    let left = fs::read_dir(work).unwrap().count();
    assert_eq!(left, 3, "canary, sub, evil.tar.gz");
}
