//! Versions of the schema.

use refinery::{Runner, Target};

use super::*;
use crate::schema::{STEPS, migrations};

fn database(dir: &Path) -> Connection {
    Connection::open(dir.join("danube.db")).unwrap()
}

/// Every file of the directory with its bytes.
fn everything(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn the_steps_are_the_files_of_their_directory() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let files: Vec<_> = everything(&dir)
        .into_iter()
        .map(|(name, text)| (name, String::from_utf8(text).unwrap()))
        .collect();
    let steps: Vec<_> =
        STEPS.iter().map(|(name, text)| (format!("{name}.sql"), (*text).to_owned())).collect();
    assert_eq!(files, steps);
    let versions: Vec<_> = migrations().iter().map(refinery::Migration::version).collect();
    assert!(versions.iter().map(|v| *v as usize).eq(1..=STEPS.len()));
}

#[test]
fn released_steps_do_not_change() {
    // A database records the checksum of each step it went through: a step is never edited, another
    // one is added.
    let checksums: Vec<_> = migrations().iter().map(refinery::Migration::checksum).collect();
    assert_eq!(
        checksums,
        [
            11_219_861_930_436_060_114,
            4_095_326_528_311_154_134,
            15_705_599_140_090_043_130,
            13_423_893_654_301_079_048,
            9_647_190_965_747_188_178
        ]
    );
}

#[tokio::test]
async fn a_new_database_gets_every_step_and_an_old_one_none() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).await.unwrap();
    assert_eq!(first.migrated(), Migrated { from: 0, to: KNOWN });
    drop(first);
    let second = open(dir.path()).await.unwrap();
    assert_eq!(second.migrated(), Migrated { from: KNOWN, to: KNOWN });
}

#[tokio::test]
async fn every_older_version_is_brought_up_to_date_and_keeps_its_records() {
    for version in 1..KNOWN {
        let dir = tempfile::tempdir().unwrap();
        let mut connection = database(dir.path());
        let old = Runner::new(&migrations()).set_target(Target::Version(version as i32));
        old.run(&mut connection).unwrap();
        connection
            .execute_batch(
                "INSERT INTO jobs VALUES ('old', 'a job', 'lost', 'sign', 'why', 1, 2, 3, 4, 5, '/w', 6, \
                 1, NULL, 7); \
                 INSERT INTO steps VALUES ('old', 0, 'a', 'true', 'lost', NULL, 9, 2, 3, 0, 6);",
            )
            .unwrap();
        if (2..5).contains(&version) {
            insert_old_artifacts(&connection);
        }
        drop(connection);
        let store = open(dir.path()).await.unwrap();
        assert_eq!(store.migrated(), Migrated { from: version, to: KNOWN });
        let kept = store.get(&id("old")).await.unwrap();
        assert_eq!((kept.state, kept.steps.len(), kept.log_bytes), (JobState::Lost, 1, 6));
        if (2..5).contains(&version) {
            old_artifacts_have_ids(&store).await;
        }
    }
}

fn insert_old_artifacts(connection: &Connection) {
    let digest = "ab".repeat(32);
    connection
        .execute_batch(&format!(
            "INSERT INTO artifacts VALUES ('old', 'out/a.json', 2, '{digest}', \
             'application/json', 'active', 1700000000123, 60, 0, '{{\"k\":\"v\"}}'); \
             INSERT INTO artifacts VALUES ('old', 'early', 2, '{digest}', 'a/b', \
             'deleted', -5, NULL, 1, '{{}}');"
        ))
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_that_bring_artifacts_up_to_date_at_once_one_gives_the_ids() {
    use danube_artifacts::ArtifactIndex;

    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let mut connection = database(dir.path());
        Runner::new(&migrations()).set_target(Target::Version(4)).run(&mut connection).unwrap();
        insert_old_artifacts(&connection);
        drop(connection);
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let path = dir.path().join("danube.db");
            tasks.spawn(async move {
                let store = Store::open(&path, StoreOptions::default()).await?;
                let records = store.all(None, 10).await.unwrap();
                Ok::<_, Error>(records)
            });
        }
        let mut seen = Vec::new();
        while let Some(result) = tasks.join_next().await {
            seen.push(result.unwrap().unwrap());
        }
        assert!(seen[0].len() == 2 && seen.iter().all(|records| *records == seen[0]));
    }
}

/// What was recorded before artifacts had ids.
async fn old_artifacts_have_ids(store: &Store) {
    use danube_artifacts::{ArtifactIndex, ArtifactKind, RecordChange};

    let records = store.all(None, 10).await.unwrap();
    let [early, old] = &records[..] else { panic!("{records:?}") };
    assert_eq!((old.name.as_str(), old.size_bytes, old.keep_forever), ("out/a.json", 2, false));
    assert_eq!((old.kind, old.archived_at), (ArtifactKind::Data, None));
    assert_eq!((old.keep_for, &old.tags["k"][..]), (Some(Duration::from_secs(60)), "v"));
    assert_eq!((early.created_at.as_millisecond(), early.keep_forever), (-5, true));
    assert_ne!(early.id, old.id);
    // Version 7 and the variant, of the time when it was stored.
    let id = old.id.to_string();
    assert_eq!(&id[..15], "018bcfe5-687b-7", "{id}");
    assert!("89ab".contains(&id[19..20]), "{id}");
    assert_eq!(store.find(&old.id).await.unwrap(), *old);
    store.change(&old.job, &old.name, &RecordChange::default()).await.unwrap();
    assert_eq!(store.find(&old.id).await.unwrap(), *old, "the id stays");
    let gone = "DELETE FROM jobs WHERE id = 'old'";
    store.0.writer.lock().await.execute(gone, []).unwrap();
    assert!(store.all(None, 10).await.unwrap().is_empty(), "records still go with their job");
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_nothing_is_touched() {
    let (store, dir) = temporary().await;
    store.create(&job("j")).await.unwrap();
    drop(store);
    database(dir.path())
        .execute_batch(
            "INSERT INTO refinery_schema_history VALUES (9999, 'future', '2027-01-01T00:00:00Z', '1'); \
             DROP TABLE steps; ALTER TABLE jobs RENAME TO tasks;",
        )
        .unwrap();
    let before = everything(dir.path());
    let error = open(dir.path()).await.unwrap_err();
    assert!(matches!(error, Error::NewerSchema { found: 9999, known: KNOWN, .. }), "{error:?}");
    let path = dir.path().join("danube.db");
    assert_eq!(
        error.to_string(),
        format!(
            "{} has schema version 9999, and this version of danube knows only up to {KNOWN}: use the newer \
             danube, or another data directory",
            path.display()
        )
    );
    assert!(everything(dir.path()) == before);
}

#[tokio::test]
async fn a_newer_schema_keeps_the_log_of_a_process_that_was_killed() {
    let (store, dir) = temporary().await;
    store.create(&job("j")).await.unwrap();
    let change = "INSERT INTO refinery_schema_history VALUES (9999, 'future', '', '1')";
    database(dir.path()).execute_batch(change).unwrap();
    // What lies on the disk while the store is open is what a killed process leaves.
    let left = tempfile::tempdir().unwrap();
    for file in ["danube.db", "danube.db-wal"] {
        std::fs::copy(dir.path().join(file), left.path().join(file)).unwrap();
    }
    let before = everything(left.path());
    let error = open(left.path()).await.unwrap_err();
    assert!(matches!(error, Error::NewerSchema { found: 9999, .. }), "{error:?}");
    let mut after = everything(left.path());
    after.retain(|(name, _)| name != "danube.db-shm");
    assert!(after == before);
}

#[tokio::test]
async fn a_newer_schema_is_not_written_to_even_by_who_had_it_open() {
    let (store, dir) = temporary().await;
    store.create(&job("j")).await.unwrap();
    database(dir.path())
        .execute("INSERT INTO refinery_schema_history VALUES (9999, 'future', '', '1')", [])
        .unwrap();
    let refused = store.create(&job("k")).await.unwrap_err();
    assert!(matches!(refused, Error::NewerSchema { found: 9999, .. }), "{refused:?}");
    assert_eq!(store.get(&id("j")).await.unwrap(), job("j"));
}

#[tokio::test]
async fn a_database_of_somebody_else_is_refused_and_not_touched() {
    let of_ours = "UPDATE refinery_schema_history SET";
    let cases = [
        ("another program's", "CREATE TABLE places (url TEXT)".to_owned(), false),
        ("other steps", format!("{of_ours} name = 'people' WHERE version = 2"), true),
        ("a step that was edited", format!("{of_ours} checksum = '1' WHERE version = 2"), true),
        ("a time that is none", format!("{of_ours} applied_on = 'noon'"), true),
        ("a gap", "DELETE FROM refinery_schema_history WHERE version = 2".to_owned(), true),
        ("no first step", "DELETE FROM refinery_schema_history WHERE version = 1".to_owned(), true),
        (
            "a history of other columns",
            "CREATE TABLE refinery_schema_history (a)".to_owned(),
            false,
        ),
    ];
    for (desc, change, is_ours) in cases {
        let dir = tempfile::tempdir().unwrap();
        if is_ours {
            drop(open(dir.path()).await.unwrap());
        }
        database(dir.path()).execute_batch(&change).unwrap();
        std::fs::set_permissions(
            dir.path().join("danube.db"),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
        .unwrap();
        let before = everything(dir.path());
        let error = open(dir.path()).await.expect_err(desc);
        assert!(matches!(error, Error::Foreign { .. }), "{desc}: {error:?}");
        assert!(error.to_string().contains("is not a database of this program: "), "{error}");
        assert!(everything(dir.path()) == before, "{desc}");
    }
}

#[tokio::test]
async fn a_migration_that_was_killed_after_its_first_statement_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).await.unwrap());
    // The runner makes its table in a transaction of its own.
    let fresh = tempfile::tempdir().unwrap();
    database(fresh.path())
        .execute_batch(
            "CREATE TABLE refinery_schema_history (version int4 PRIMARY KEY, name VARCHAR(255), \
             applied_on VARCHAR(255), checksum VARCHAR(255))",
        )
        .unwrap();
    let store = open(fresh.path()).await.unwrap();
    assert_eq!(store.migrated(), Migrated { from: 0, to: KNOWN });
    store.create(&job("j")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_that_open_a_new_database_at_once_all_get_it() {
    for _ in 0..5 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data/danube.db");
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..12 {
            let path = path.clone();
            tasks.spawn(async move {
                let store = Store::open(&path, StoreOptions::default()).await?;
                store.create(&job(&format!("j{n}"))).await?;
                Ok::<_, Error>(store)
            });
        }
        let mut stores = Vec::new();
        while let Some(result) = tasks.join_next().await {
            stores.push(result.unwrap().unwrap());
        }
        assert_eq!(stores[0].list(&JobQuery::default()).await.unwrap().len(), 12);
    }
}
