//! Several processes on one database, processes that are killed, and disks that are full.
//!
//! The other processes are this test program again, running one of the ignored tests below with the path
//! of the database on its standard input.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use danube_core::{JobId, JobState, StepName, Timestamp};
use danube_store::{
    Error, JobQuery, JobRecord, JobStore, StepRecord, Store, StoreOptions, Transition,
};

const SAID: &str = "said: ";

struct Other {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start(mut command: Command, role: &str, path: &Path) -> Self {
        command.args(["--exact", role, "--ignored", "--nocapture", "--test-threads", "1"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        writeln!(stdin, "{}", path.display()).unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, stdin: Some(stdin), lines }
    }

    fn run(role: &str, path: &Path) -> Self {
        Self::start(Command::new(std::env::current_exe().unwrap()), role, path)
    }

    /// What it says next; `None` when it has ended.
    fn said(&mut self) -> Option<String> {
        let lines = self.lines.by_ref().map_while(Result::ok);
        // The test harness writes the name of the test before its output, without a line of its own.
        lines.filter_map(|line| line.split_once(SAID).map(|(_, said)| said.to_owned())).next()
    }

    fn end(mut self) -> Vec<String> {
        drop(self.stdin.take());
        let said = std::iter::from_fn(|| self.said()).collect();
        assert!(self.child.wait().unwrap().success());
        said
    }

    fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        let said = std::iter::from_fn(|| self.said()).collect();
        self.child.wait().unwrap();
        said
    }
}

/// The path that the starting process gave; `None` when somebody runs all ignored tests.
fn given_path() -> Option<String> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    Some(line.trim().to_owned()).filter(|path| !path.is_empty())
}

fn say(text: &str) {
    // One write: whoever reads sees a whole line or none.
    std::io::stdout().write_all(format!("{SAID}{text}\n").as_bytes()).unwrap();
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

async fn open(path: &Path) -> Result<Store, Error> {
    Store::open(path, StoreOptions::default()).await
}

fn job(id: &str) -> JobRecord {
    let step: StepName = "build".parse().unwrap();
    let steps = vec![StepRecord::pending(0, step, "cargo build")];
    JobRecord { steps, ..JobRecord::pending(id.parse().unwrap(), "nightly", Timestamp::UNIX_EPOCH) }
}

async fn record_and_end(store: &Store, id: &str) -> Result<(), Error> {
    let job = job(id);
    store.create(&job).await?;
    store.transition(&job.id, &Transition::new(JobState::Failed, Timestamp::UNIX_EPOCH)).await?;
    Ok(())
}

#[test]
#[ignore = "a part of other tests"]
fn records_jobs_until_it_is_killed() {
    let Some(path) = given_path() else { return };
    let me = std::process::id();
    run(async {
        let store = open(Path::new(&path)).await.unwrap();
        for n in 0.. {
            let id = format!("{me}-{n}");
            record_and_end(&store, &id).await.unwrap();
            say(&id);
        }
    });
}

#[test]
#[ignore = "a part of other tests"]
fn records_a_hundred_jobs() {
    let Some(path) = given_path() else { return };
    let me = std::process::id();
    run(async {
        let store = open(Path::new(&path)).await.unwrap();
        for n in 0..100 {
            let id = format!("{me}-{n}");
            record_and_end(&store, &id).await.unwrap();
            say(&id);
        }
    });
}

#[test]
fn what_was_acknowledged_survives_being_killed() {
    const CYCLES: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("danube.db");
    let mut acknowledged = Vec::new();
    for cycle in 0..CYCLES {
        let mut other = Other::run("records_jobs_until_it_is_killed", &path);
        // Killed at another point of its work each time: also while it makes the database.
        acknowledged.extend((0..cycle % 5).map_while(|_| other.said()));
        acknowledged.extend(other.kill());
    }
    assert!(acknowledged.len() > CYCLES, "{} jobs were recorded", acknowledged.len());

    run(async {
        let store = open(&path).await.unwrap();
        for id in &acknowledged {
            let kept = store.get(&id.parse().unwrap()).await.unwrap();
            assert_eq!((kept.state, kept.steps[0].state), (JobState::Failed, JobState::Failed));
        }
        // At most one job of each process was recorded and not ended.
        let open = JobQuery::default().with_unfinished_only(true).with_limit(1000);
        assert!(store.list(&open).await.unwrap().len() <= CYCLES);
    });
    let connection = rusqlite::Connection::open(&path).unwrap();
    let check = |pragma: &str| -> Vec<String> {
        let mut check = connection.prepare(pragma).unwrap();
        check.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    assert_eq!(check("PRAGMA integrity_check"), ["ok"]);
    assert!(check("PRAGMA foreign_key_check").is_empty());
}

#[test]
fn processes_write_and_read_one_new_database_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data/danube.db");
    let others: Vec<_> = (0..4).map(|_| Other::run("records_a_hundred_jobs", &path)).collect();
    run(async {
        let store = open(&path).await.unwrap();
        for n in 0..100 {
            record_and_end(&store, &format!("here-{n}")).await.unwrap();
            store.list(&JobQuery::default()).await.unwrap();
        }
        let mut ids: Vec<String> = others.into_iter().flat_map(Other::end).collect();
        assert_eq!(ids.len(), 400);
        ids.extend((0..100).map(|n| format!("here-{n}")));
        for id in ids {
            let id: JobId = id.parse().unwrap();
            assert_eq!(store.get(&id).await.unwrap().state, JobState::Failed);
        }
    });
}

#[test]
fn what_another_process_recorded_is_seen_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("danube.db");
    run(async {
        let store = open(&path).await.unwrap();
        let mut other = Other::run("records_jobs_until_it_is_killed", &path);
        for _ in 0..50 {
            let id: JobId = other.said().unwrap().parse().unwrap();
            assert_eq!(store.get(&id).await.unwrap().state, JobState::Failed);
        }
        other.kill();
    });
}

/// This program in a mount namespace of its own, after `mount`. Fails the test where the system
/// forbids that: a test that was not tried has not passed.
fn with_mount(mount: &str) -> Command {
    let in_namespace = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-ec"]);
        command
    };
    let tried = in_namespace().arg(mount).output().unwrap();
    assert!(
        tried.status.success(),
        "a small disk needs root, or user namespaces: {}",
        String::from_utf8_lossy(&tried.stderr)
    );
    let mut command = in_namespace();
    let program = std::env::current_exe().unwrap();
    command.arg(format!("{mount}\nexec \"$0\" \"$@\"")).arg(program);
    command
}

#[test]
#[ignore = "a part of other tests"]
fn fills_the_disk_and_makes_room_again() {
    let Some(path) = given_path() else { return };
    let path = Path::new(&path);
    let ballast = path.with_file_name("ballast");
    run(async {
        // The database and its log need some of it from the beginning.
        std::fs::write(&ballast, vec![0; 200_000]).unwrap();
        let store = open(path).await.unwrap();
        let mut kept = Vec::new();
        let error = loop {
            let id = format!("job-{}", kept.len());
            let record = JobRecord { work_dir: "w".repeat(10_000), ..job(&id) };
            match store.create(&record).await {
                Ok(()) => kept.push(record),
                Err(error) => break error,
            }
            assert!(kept.len() < 1_000, "the disk is never full");
        };
        assert!(matches!(error, Error::Full { .. }), "{error:?}");
        say(&error.to_string());
        for record in &kept {
            assert_eq!(store.get(&record.id).await.unwrap(), *record);
        }
        let refused = format!("job-{}", kept.len()).parse().unwrap();
        assert!(matches!(store.get(&refused).await, Err(Error::NotFound { .. })));

        std::fs::remove_file(&ballast).unwrap();
        record_and_end(&store, "afterwards").await.unwrap();
        drop(store);
        let store = open(path).await.unwrap();
        let all = store.list(&JobQuery::default().with_limit(1000)).await.unwrap();
        assert_eq!(all.len(), kept.len() + 1);
        say("recovered");
    });
}

#[test]
fn a_full_disk_is_told_loses_nothing_and_is_recovered_from() {
    let command = with_mount("mount -t tmpfs -o size=1m tmpfs /mnt");
    let other =
        Other::start(command, "fills_the_disk_and_makes_room_again", Path::new("/mnt/danube.db"));
    assert_eq!(
        other.end(),
        ["cannot write /mnt/danube.db: the disk is full; make room and try again", "recovered"]
    );
}

#[test]
#[ignore = "a part of other tests"]
fn tells_why_it_cannot_open() {
    let Some(path) = given_path() else { return };
    run(async {
        let error = open(Path::new(&path)).await.unwrap_err();
        say(&format!("{:?}: {error}", error.class()));
    });
}

#[test]
fn a_disk_that_is_full_from_the_beginning_is_told() {
    let mount = "mount -t tmpfs -o size=64k tmpfs /mnt\nhead -c 60000 /dev/zero > /mnt/ballast";
    let command = with_mount(mount);
    let other = Other::start(command, "tells_why_it_cannot_open", Path::new("/mnt/danube.db"));
    assert_eq!(
        other.end(),
        ["Exhausted: cannot write /mnt/danube.db: the disk is full; make room and try again"]
    );
}

#[test]
fn a_read_only_file_system_is_told() {
    for path in ["/mnt/danube.db", "/mnt/new/danube.db"] {
        let mount = "mount -t tmpfs -o ro tmpfs /mnt";
        let command = with_mount(mount);
        let other = Other::start(command, "tells_why_it_cannot_open", Path::new(path));
        let expected = format!(
            "Denied: cannot write {path}: check that the directory and the file belong to this user \
             and are writable"
        );
        assert_eq!(other.end(), [expected]);
    }
}

#[test]
fn a_file_that_may_not_be_written_is_told() {
    // Root may write what it likes, so the whole file system says no; the database is there already.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("danube.db");
    run(async { drop(open(&path).await.unwrap()) });
    let dir = dir.path().display();
    let mount = format!("mount --bind '{dir}' /mnt\nmount -o remount,bind,ro /mnt");
    let command = with_mount(&mount);
    let other = Other::start(command, "tells_why_it_cannot_open", Path::new("/mnt/danube.db"));
    let said = other.end();
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with("Denied: cannot write /mnt/danube.db: "), "{said:?}");
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_not_a_death() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("danube.db");
    run(async { drop(open(&path).await.unwrap()) });
    let mut command = Command::new("sh");
    // Half a mebibyte; the log passes it first.
    command.args(["-ec", "trap '' XFSZ\nulimit -f 1024\nexec \"$0\" \"$@\""]);
    command.arg(std::env::current_exe().unwrap());
    let other = Other::start(command, "records_until_refused", &path);
    let said = other.end();
    let (error, kept) = said.split_last().unwrap();
    assert!(error.contains(path.to_str().unwrap()) && !kept.is_empty(), "{error}");
    run(async {
        let store = open(&path).await.unwrap();
        for id in kept {
            store.get(&id.parse().unwrap()).await.unwrap();
        }
        store.create(&job("afterwards")).await.unwrap();
    });
}

#[test]
#[ignore = "a part of other tests"]
fn records_until_refused() {
    let Some(path) = given_path() else { return };
    run(async {
        let store = open(Path::new(&path)).await.unwrap();
        for n in 0..10_000 {
            let id = format!("job-{n}");
            let record = JobRecord { work_dir: "w".repeat(10_000), ..job(&id) };
            if let Err(error) = store.create(&record).await {
                say(&error.to_string());
                return;
            }
            say(&id);
        }
        say("never refused");
    });
}

#[test]
fn the_other_process_of_these_tests_does_nothing_when_nobody_starts_it() {
    let mut bytes = Vec::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "records_a_hundred_jobs", "--ignored", "--nocapture"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(!String::from_utf8_lossy(&bytes).contains(SAID));
}
