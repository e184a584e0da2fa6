//! A put that dies, or is refused, at any of its system calls.
//!
//! `strace` stops a process of its own at the N-th call of a kind. Only calls that change the disk are
//! stopped at: between two of them the disk is what it was at the one before. All of a put's calls come
//! from the one thread that the child's runtime has for blocking work, so the N-th call is the
//! same one in every run.

use super::*;
use crate::{ByteStream, Durability};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Every call by which a put can change something on the disk.
const CHANGES: &str = "mkdirat,write,fsetxattr,fchmod,fsync,flock,linkat,symlinkat,renameat,\
                       renameat2,unlinkat,fdatasync,fallocate,ftruncate";

/// The test's harness writes, too, from a thread with a count of its own: the thread that puts begins
/// beyond what that one reaches.
pub(super) const OTHERS_WRITES: usize = 100;

struct Case {
    name: &'static str,
    /// What the store holds before: path and seed of the content.
    before: &'static [(&'static str, u64, usize)],
    seed: u64,
    len: usize,
    replace: bool,
}

/// The way of a small body, of a long one, of a duplicate of each, of one that parts from its
/// candidate, over something that is there, too small to be shared, and of one that takes room ahead.
const CASES: &[Case] = &[
    Case { name: "tiny", before: &[], seed: 1, len: 100, replace: false },
    Case { name: "small", before: &[], seed: 1, len: 9_000, replace: false },
    Case { name: "small again", before: &[("b", 1, 9_000)], seed: 1, len: 9_000, replace: false },
    Case { name: "small over", before: &[("a", 2, 9_000)], seed: 1, len: 9_000, replace: true },
    Case { name: "itself", before: &[("a", 1, 9_000)], seed: 1, len: 9_000, replace: true },
    Case { name: "long", before: &[], seed: 1, len: 2_300_000, replace: false },
    Case {
        name: "long again",
        before: &[("b", 1, 2_300_000)],
        seed: 1,
        len: 2_300_000,
        replace: false,
    },
    Case {
        name: "longer",
        before: &[("b", 1, 2_000_000)],
        seed: 1,
        len: 2_300_000,
        replace: false,
    },
    Case { name: "in steps", before: &[], seed: 1, len: 9_000_000, replace: false },
];

pub(super) fn bytes_of(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (at.wrapping_mul(seed + 6) >> 3) as u8).collect()
}

fn body_of(seed: u64, len: usize) -> ByteStream {
    let bytes = bytes_of(seed, len);
    // Not more writes than need be: each of them is killed once.
    let chunks: Vec<_> =
        bytes.chunks(60_000.max(len / 16)).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
    Box::pin(futures_util::stream::iter(chunks))
}

/// Without an I/O driver, which is woken by a `write`: one that failed would be the runtime's, not the put's.
pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap()
}

/// Brings the thread that puts beyond the count of the others.
pub(super) fn warm_up(runtime: &tokio::runtime::Runtime) {
    let warm_up = runtime.spawn_blocking(|| {
        let mut nowhere = File::create("/dev/null").unwrap();
        (0..OTHERS_WRITES).for_each(|_| std::io::Write::write_all(&mut nowhere, b"x").unwrap());
    });
    runtime.block_on(warm_up).unwrap();
}

/// Puts what the case says into the current directory and tells how that ended.
#[test]
#[ignore = "a_put_can_die_at_every_call and a_call_that_fails run it under strace"]
#[expect(clippy::disallowed_methods, reason = "the test that starts it says which case it is")]
fn put_one_case() {
    let at: usize = std::env::var("DANUBE_TEST_CASE").unwrap().parse().unwrap();
    let case = &CASES[at];
    let mode = if case.replace { PutMode::Replace } else { PutMode::CreateNew };
    let options = PutOptions::default().with_mode(mode);
    let store = FsBlobs::new(".").with_keep_free_bytes(0);
    let runtime = runtime();
    warm_up(&runtime);
    let done = runtime.block_on(store.put(&key("dir/a"), body_of(case.seed, case.len), options));
    match done {
        Ok(_) => println!("\nstored"),
        Err(e) => println!("\nrefused {:?} {e}", e.class()),
    }
}

pub(super) struct Ran {
    pub(super) said: String,
    pub(super) trace: String,
}

impl Ran {
    pub(super) fn stored(&self) -> bool {
        self.said.contains("\nstored\n")
    }

    fn refused(&self) -> Option<&str> {
        self.said.lines().find_map(|line| line.strip_prefix("refused "))
    }
}

fn under_strace(case: usize, dir: &Path, inject: Option<&str>) -> Ran {
    test_under_strace("crash::put_one_case", case, dir, inject)
}

pub(super) fn test_under_strace(test: &str, case: usize, dir: &Path, inject: Option<&str>) -> Ran {
    let traces = tempfile::tempdir().unwrap();
    let trace = traces.path().join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(&trace);
    command.arg(format!("-etrace={CHANGES}"));
    command.args(inject.map(|inject| format!("-einject={inject}")));
    command.arg(std::env::current_exe().unwrap());
    command.arg("--exact").arg(format!("fs_blobs::tests::{test}"));
    command.args(["--ignored", "--nocapture"]);
    command.current_dir(dir).env("DANUBE_TEST_CASE", case.to_string()).stdin(Stdio::null());
    let output = command.output().expect("strace is installed: cargo xtask test installs it");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ran { said, trace: fs::read_to_string(&trace).unwrap_or_default() }
}

/// How often the thread that puts makes each of the calls.
pub(super) fn calls_of(trace: &str) -> BTreeMap<String, usize> {
    let mut threads: BTreeMap<&str, BTreeMap<String, usize>> = BTreeMap::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let Some((name, _)) = call.trim_start().split_once('(') else { continue };
        *threads.entry(thread).or_default().entry(name.to_owned()).or_default() += 1;
    }
    // It alone gives a name to a file.
    let puts = |calls: &BTreeMap<String, usize>| {
        calls.keys().any(|name| name.starts_with("renameat") || name == "linkat")
    };
    threads.into_values().find(puts).expect("a thread that puts")
}

/// Which of them belong to the put.
pub(super) fn of_the_put(call: &str, times: usize) -> std::ops::RangeInclusive<usize> {
    if call == "write" { OTHERS_WRITES + 1..=times } else { 1..=times }
}

/// In memory where there is such a place: a process that dies loses nothing there either, and
/// hundreds of syncs take no time.
pub(super) fn quick_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn prepared(case: &Case) -> tempfile::TempDir {
    let dir = quick_dir();
    let store = FsBlobs::new(dir.path());
    for (path, seed, len) in case.before {
        let key = key(&format!("dir/{path}"));
        let deferred = PutOptions::default().with_durability(Durability::Deferred);
        let put = store.put(&key, body_of(*seed, *len), deferred);
        runtime().block_on(put).unwrap();
    }
    dir
}

/// What is visible is whole; what was there is there; the next put and the sweep succeed; and when all
/// is deleted, nothing is left.
fn check(case: &Case, dir: &Path, ran: &Ran, may_have_replaced: bool, what: &str) {
    let old = |path: &str| {
        let found = case.before.iter().find(|(before, ..)| *before == path);
        found.map(|(_, seed, len)| bytes_of(*seed, *len))
    };
    for (path, seed, len) in case.before.iter().filter(|(path, ..)| *path != "a") {
        let content = fs::read(dir.join("j/dir").join(path)).unwrap();
        assert!(content == bytes_of(*seed, *len), "{what}: {path} was changed");
    }
    let new = bytes_of(case.seed, case.len);
    match fs::read(dir.join("j/dir/a")) {
        Ok(content) if content == new => {
            let was_old = old("a").as_ref() == Some(&new);
            let fine = ran.refused().is_none() || may_have_replaced || was_old;
            assert!(fine, "{what}: refused and there");
            assert_eq!(mode(&dir.join("j/dir/a")), 0o444, "{what}");
        }
        Ok(content) => {
            assert!(!ran.stored(), "{what}: acknowledged and not there");
            assert!(Some(content) == old("a"), "{what}: something partial is visible");
        }
        Err(_) => {
            assert!(!ran.stored(), "{what}: acknowledged and not there");
            assert!(old("a").is_none(), "{what}: the old bytes are gone");
        }
    }
    runtime().block_on(async {
        let store = FsBlobs::new(dir);
        let replace =
            PutOptions::default().with_mode(PutMode::Replace).with_durability(Durability::Deferred);
        store.put(&key("dir/a"), body_of(case.seed, case.len), replace).await.unwrap();
        assert!(fs::read(dir.join("j/dir/a")).unwrap() == new, "{what}: the next put");
        store.sweep(Timestamp::MAX).await.unwrap();
        for blob in store.list(&"j".parse().unwrap()).await.unwrap() {
            store.delete(&blob).await.unwrap();
        }
        store.sweep(Timestamp::MAX).await.unwrap();
    });
    let left = Command::new("find").arg(dir).args(["!", "-type", "d"]).output().unwrap().stdout;
    assert_eq!(String::from_utf8_lossy(&left), "", "{what}: something is left");
}

#[test]
fn a_put_can_die_at_every_call() {
    let mut kills = 0;
    for (at, case) in CASES.iter().enumerate() {
        let whole = prepared(case);
        let ran = under_strace(at, whole.path(), None);
        assert!(ran.stored(), "{}: {}", case.name, ran.said);
        for (call, times) in calls_of(&ran.trace) {
            for n in of_the_put(&call, times) {
                let dir = prepared(case);
                let inject = format!("{call}:signal=SIGKILL:when={n}");
                let ran = under_strace(at, dir.path(), Some(&inject));
                let what = format!("{}, killed at {call} {n} of {times}", case.name);
                assert!(ran.trace.contains("killed by SIGKILL"), "{what}: {}", ran.said);
                check(case, dir.path(), &ran, true, &what);
                kills += 1;
            }
        }
    }
    println!("{kills} kills");
    assert!(kills > 100, "only {kills}");
}

#[test]
fn a_call_that_fails_is_told_or_does_not_matter() {
    let mut refusals = 0;
    for (at, case) in CASES.iter().enumerate() {
        let whole = prepared(case);
        let calls = calls_of(&under_strace(at, whole.path(), None).trace);
        for (call, times) in calls {
            for (n, error) in
                of_the_put(&call, times).zip(["ENOSPC", "EIO", "EDQUOT", "EFBIG"].iter().cycle())
            {
                let dir = prepared(case);
                let ran =
                    under_strace(at, dir.path(), Some(&format!("{call}:error={error}:when={n}")));
                let what = format!("{}, {error} from {call} {n} of {times}", case.name);
                assert!(ran.stored() || ran.refused().is_some(), "{what}: {}", ran.said);
                if let Some(told) = ran.refused() {
                    refusals += 1;
                    let class = if *error == "EIO" { "Internal" } else { "Exhausted" };
                    assert!(told.starts_with(class), "{what}: {told}");
                    assert!(told.contains("could not put j/dir/a"), "{what}: {told}");
                }
                // A name in the staging directory stays only where its removal is what failed.
                let staged = names(&dir.path().join(".tmp"));
                assert!(staged.is_empty() || call == "unlinkat", "{what}: {staged:?}");
                // The last syncs come after the rename: what was replaced cannot be brought back.
                let may_have_replaced = case.replace && call == "fsync";
                check(case, dir.path(), &ran, may_have_replaced, &what);
            }
        }
    }
    assert!(refusals > 30, "only {refusals}");
}

#[test]
fn a_long_put_killed_in_its_middle_leaves_nothing_visible() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=5_u64 {
        let mut command = another_process("crash::put_a_long_one", dir.path(), None);
        let mut child = command.spawn().unwrap();
        // Killed when so much has been written: a condition, not a time.
        let staging = dir.path().join(".tmp");
        let written = || {
            let entries = fs::read_dir(&staging).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).max()
        };
        let mut patience = 0;
        while written().unwrap_or(0) < round * 7_000_000 {
            assert!(child.try_wait().unwrap().is_none(), "it was not killed");
            patience += 1;
            assert!(patience < 20_000_000, "nothing is written");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(names(&staging).len(), 1, "it was killed after its commit");
        assert!(!dir.path().join("j").exists());
        runtime().block_on(async {
            put(&FsBlobs::new(dir.path()), "after", b"x").await.unwrap();
            FsBlobs::new(dir.path()).delete(&key("after")).await.unwrap();
        });
        assert_eq!(names(&staging), [""; 0], "the next put removes what the dead one left");
    }
}

#[tokio::test]
#[ignore = "a_long_put_killed_in_its_middle_leaves_nothing_visible runs it and kills it"]
async fn put_a_long_one() {
    let chunk = Bytes::from(vec![7; 100_000]);
    let body: ByteStream = Box::pin(futures_util::stream::repeat_with(move || Ok(chunk.clone())));
    let _ = FsBlobs::new(".").put(&key("a"), body, PutOptions::default()).await;
}

#[test]
fn a_long_put_takes_little_memory() {
    let dir = quick_dir();
    let output = another_process("crash::put_and_tell_memory", dir.path(), None).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let grown = said.lines().find_map(|line| line.strip_prefix("grown ")).unwrap();
    let grown: u64 = grown.parse().unwrap();
    assert!(grown < 32 * 1024, "{grown} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a_long_put_takes_little_memory runs it"]
async fn put_and_tell_memory() {
    let peak = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let store = FsBlobs::new(".").with_keep_free_bytes(0);
    let body = |len: usize| -> ByteStream {
        let chunks = (0..len as u64 / 100_000).map(|at| Ok(Bytes::from(vec![at as u8; 100_000])));
        Box::pin(futures_util::stream::iter(chunks))
    };
    put(&store, "small", &[1; 10_000]).await.unwrap();
    let before = peak();
    let options = PutOptions::default();
    store.put(&key("long"), body(400_000_000), options.clone()).await.unwrap();
    store.put(&key("again"), body(400_000_000), options).await.unwrap();
    println!("\ngrown {}", peak() - before);
}

#[tokio::test]
async fn a_directory_that_vanishes_under_a_put_is_told() {
    let bytes = vec![1; 1_100_000];
    for vanishing in [".tmp", ""] {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let store = FsBlobs::new(&root);
        let (gone, rest) = (root.join(vanishing), bytes.clone());
        let first = futures_util::stream::iter([Ok(Bytes::from(bytes.clone()))]);
        let then = futures_util::stream::once(async move {
            #[expect(clippy::disallowed_methods, reason = "the test deletes what it made")]
            fs::remove_dir_all(gone).unwrap();
            Ok(Bytes::from(rest))
        });
        let body: ByteStream = Box::pin(first.chain(then));
        let error = store.put(&key("a"), body, PutOptions::default()).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Internal, "{error:?}");
        assert!(error.to_string().contains("could not put j/a"), "{error}");
        assert!(!root.join("j").exists() || names(&root.join("j")).is_empty());
        put(&store, "a", b"again").await.unwrap();
    }
}
