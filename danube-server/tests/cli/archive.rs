//! `danube artifacts pack` and `unpack`.

use std::fs;
use std::process::Command;

use crate::harness::{Danube, files_below, killed_at_every_call, said, stderr, wait_until};

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

/// The directories in which something is, or was, being unpacked.
fn unfinished(danube: &Danube) -> Vec<std::path::PathBuf> {
    let all = fs::read_dir(danube.work()).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.to_str().unwrap().contains("/.danube-unpack-")).collect()
}

fn an_archive(danube: &Danube) {
    let tree = danube.work().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/file"), "content").unwrap();
    std::os::unix::fs::symlink("b/file", tree.join("a/link")).unwrap();
    danube.expect(0, &["artifacts", "pack", "tree", "good.tar.gz"]);
}

#[test]
fn what_an_unpacking_killed_at_any_call_leaves_is_removed_by_the_next() {
    let danube = Danube::new();
    an_archive(&danube);
    let copy = danube.work().join("copy");
    let mut left_something = 0;
    let calls = ["mkdir,mkdirat", "flock", "write", "symlinkat", "renameat2", "unlinkat,rmdir"];
    let args = ["artifacts", "unpack", "good.tar.gz", "copy"];
    let killed = killed_at_every_call(&danube, &args, &calls, || {
        left_something += usize::from(!unfinished(&danube).is_empty());
        // Whole or not at all.
        if copy.exists() {
            assert_eq!(files_below(&copy).len(), 2);
            assert_eq!(fs::read(copy.join("a/b/file")).unwrap(), b"content");
            fs::rename(&copy, danube.work().join("done")).unwrap();
            let removed =
                Command::new("rm").args(["-r", "done"]).current_dir(danube.work()).status();
            assert!(removed.unwrap().success());
        }
    });
    assert!(killed >= 8 && left_something >= 6, "{killed} killed, {left_something} left something");
    for name in ["copy", "copy2"] {
        danube.expect(0, &["artifacts", "unpack", "good.tar.gz", name]);
        assert_eq!(unfinished(&danube), [""; 0].map(std::path::PathBuf::from));
    }
}

#[test]
fn what_is_being_unpacked_is_nobodys_leftover() {
    use std::io::Write;
    let danube = Danube::new();
    an_archive(&danube);
    let work = danube.work();
    assert!(Command::new("mkfifo").arg(work.join("slow")).status().unwrap().success());
    let running = danube.start(&["artifacts", "unpack", "slow", "late"]);
    let mut slow = fs::File::options().write(true).open(work.join("slow")).unwrap();
    let archive = fs::read(work.join("good.tar.gz")).unwrap();
    slow.write_all(&archive[..20]).unwrap();
    wait_until("it has begun", || unfinished(&danube).len() == 1);
    let begun = unfinished(&danube);
    let abandoned = work.join(".danube-unpack-0123456789abcdef");
    fs::create_dir(&abandoned).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs::set_permissions(&abandoned, mode).unwrap();
    let out = danube.run(&["artifacts", "unpack", "good.tar.gz", "copy"]);
    assert!(out.status.success(), "{}", said(&out));
    assert!(stderr(&out).contains("removed what killed unpackings left: 1"), "{}", said(&out));
    assert_eq!(unfinished(&danube), begun);
    slow.write_all(&archive[20..]).unwrap();
    drop(slow);
    let out = running.wait();
    assert!(out.status.success(), "{}", said(&out));
    assert_eq!(fs::read(work.join("late/a/b/file")).unwrap(), b"content");
    assert!(unfinished(&danube).is_empty());
}
