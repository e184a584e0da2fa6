//! The laws on SQLite, and what concerns the connections.

use std::collections::BTreeSet;

use danube_core::{JobId, JobState, Timestamp};
use rusqlite::params;

use super::*;
use crate::{JobQuery, JobRecord, JobStore, StepRecord, Transition};

mod files;
mod schema;

async fn temporary() -> (Store, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    (open(dir.path()).await.expect("a new database opens"), dir)
}

async fn open(dir: &Path) -> Result<Store, Error> {
    Store::open(&dir.join("danube.db"), StoreOptions::default()).await
}

fn id(id: &str) -> JobId {
    id.parse().unwrap()
}

fn job(named: &str) -> JobRecord {
    JobRecord::pending(id(named), "a job", Timestamp::UNIX_EPOCH)
}

crate::job_store_conformance!(jobs_on_sqlite, temporary().await);
danube_secrets::secret_vault_conformance!(vault_on_sqlite, temporary().await);
danube_artifacts::artifact_index_conformance!(index_on_sqlite, temporary().await);
crate::audit_log_conformance!(audit_on_sqlite, temporary().await);

#[tokio::test]
async fn every_statement_prepares_and_none_walks_a_table_that_has_an_index_for_it() {
    let (store, _dir) = temporary().await;
    let writer = store.0.writer.lock().await;
    for (name, text) in sql::ALL {
        let statement = writer.prepare(text).unwrap_or_else(|e| panic!("{name}: {e}"));
        let parameters = vec![rusqlite::types::Null; statement.parameter_count()];
        let mut plan = writer.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
        let plan: Vec<String> = plan
            .query_map(rusqlite::params_from_iter(parameters), |row| row.get(3))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let plan = plan.join("; ");
        // An id is looked for at its end too: no index knows that, so the smallest one is walked.
        let walks = match *name {
            "MATCHING_JOBS" => "SCAN jobs USING COVERING INDEX jobs_by_age",
            // An index would be written with every change of every job, for a count a minute.
            "TALLY_JOBS" => "SCAN jobs",
            "TABLES" => "SCAN sqlite_schema",
            "SCHEMA_HISTORY" => "SCAN refinery_schema_history",
            _ => "",
        };
        assert!(!plan.replace(walks, "").contains("SCAN"), "{name}: {plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{name} sorts: {plan}");
    }
}

#[tokio::test]
async fn statements_stand_in_one_place() {
    for (file, text) in [
        ("jobs", include_str!("jobs.rs")),
        ("artifacts", include_str!("artifacts.rs")),
        ("secrets", include_str!("secrets.rs")),
        ("audit", include_str!("audit.rs")),
        ("schema", include_str!("../schema.rs")),
    ] {
        for call in ["prepare(", "prepare_cached("] {
            for argument in text.split(call).skip(1) {
                let is_named = argument.starts_with("sql::") || argument.starts_with("text)");
                assert!(is_named, "{file}: {call}{}", &argument[..40.min(argument.len())]);
            }
        }
    }
}

#[tokio::test]
async fn every_connection_has_the_settings_that_are_promised() {
    let (store, _dir) = temporary().await;
    let settings = |connection: &Connection| {
        let get = |name: &str| {
            connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
        };
        ["journal_mode", "synchronous", "foreign_keys", "busy_timeout", "query_only"]
            .map(|name| format!("{name}={:?}", get(name).unwrap()))
            .join(" ")
    };
    let common = "journal_mode=Text(\"wal\") synchronous=Integer(2) foreign_keys=Integer(1) \
                  busy_timeout=Integer(5000) query_only=Integer";
    let writer = settings(&*store.0.writer.lock().await);
    assert_eq!(writer, format!("{common}(0)"));
    store.list(&JobQuery::default()).await.unwrap();
    let reader = settings(&store.0.idle()[0]);
    assert_eq!(reader, format!("{common}(1)"));
    assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
}

#[tokio::test]
async fn a_writer_elsewhere_is_waited_for_and_then_told() {
    let (store, dir) = temporary().await;
    store.create(&job("before")).await.unwrap();
    let impatient = StoreOptions::default().with_busy_timeout(Duration::from_millis(50));
    let impatient = Store::open(&dir.path().join("danube.db"), impatient).await.unwrap();

    let held = store.clone();
    let (holding, is_held) = tokio::sync::oneshot::channel();
    let (release, is_released) = tokio::sync::oneshot::channel::<()>();
    let holder = tokio::spawn(async move {
        held.write("hold the lock", move |_| {
            let _ = holding.send(());
            let _ = is_released.blocking_recv();
            Ok(())
        })
        .await
    });
    is_held.await.unwrap();

    let error = impatient.create(&job("j")).await.unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error:?}");
    assert!(error.class().is_retryable());
    assert!(error.to_string().contains("was locked by another process for more than 50ms"));
    // Readers wait for nobody.
    assert_eq!(impatient.list(&JobQuery::default()).await.unwrap(), [job("before")]);
    assert!(matches!(impatient.get(&id("j")).await, Err(Error::NotFound { .. })));

    release.send(()).unwrap();
    holder.await.unwrap().unwrap();
    impatient.create(&job("j")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_readers_and_writers_never_see_a_lock() {
    let (first, dir) = temporary().await;
    let second = open(dir.path()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..16 {
        let store = if task % 2 == 0 { first.clone() } else { second.clone() };
        tasks.spawn(async move {
            for n in 0..15 {
                let named = format!("job-{task}-{n}");
                store.create(&job(&named)).await?;
                let end = Transition::new(JobState::Failed, Timestamp::UNIX_EPOCH);
                store.transition(&id(&named), &end).await?;
                store.list(&JobQuery::default().with_limit(20)).await?;
                store.resolve_all(&named).await?;
            }
            Ok::<_, Error>(())
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap().unwrap();
    }
    let all = first.list(&JobQuery::default().with_limit(1000)).await.unwrap();
    assert_eq!(all.len(), 16 * 15);
    assert!(all.iter().all(|job| job.state == JobState::Failed));
}

impl Store {
    async fn resolve_all(&self, text: &str) -> Result<Vec<JobId>, Error> {
        self.matching(text, 3).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_log_stays_small_under_readers() {
    let (store, dir) = temporary().await;
    store.create(&job("j")).await.unwrap();
    // The disk's speed does not matter here, the size of the log does.
    store.0.writer.lock().await.pragma_update(None, "synchronous", "off").unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (store, stop) = (store.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    store.list(&JobQuery::default()).await.unwrap();
                }
            })
        })
        .collect();
    let mut longest = 0;
    for n in 0..1_500 {
        let message = format!("{n} {}", "x".repeat(15_000));
        let change =
            Transition::new(JobState::Running, Timestamp::UNIX_EPOCH).with_message(message);
        store.transition(&id("j"), &change).await.unwrap();
        longest = longest.max(store.0.place.wal_bytes());
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(longest > 0 && longest <= WAL_WARNING_BYTES, "the log grew to {longest} bytes");
    drop(store);
    drop(dir);
}

#[tokio::test]
async fn a_reader_that_never_ends_stops_nobody_and_its_log_is_given_back() {
    let (store, dir) = temporary().await;
    store.create(&job("j")).await.unwrap();
    store.0.writer.lock().await.pragma_update(None, "synchronous", "off").unwrap();
    let somebody = Connection::open(dir.path().join("danube.db")).unwrap();
    let pinned = somebody.unchecked_transaction().unwrap();
    let count = |c: &Connection| c.query_row(sql::SCHEMA_VERSION, [], |row| row.get::<_, i64>(0));
    count(&pinned).unwrap();
    let messages = ["x", "y"].map(|letter| letter.repeat(16_000));
    let mut bytes = 0;
    for n in 0..2_000 {
        let change = Transition::new(JobState::Running, Timestamp::UNIX_EPOCH);
        let change = change.with_message(&*messages[n % 2]);
        store.transition(&id("j"), &change).await.unwrap();
        bytes = store.0.place.wal_bytes();
        if bytes > 20 << 20 {
            break;
        }
    }
    assert!(bytes > 20 << 20, "the reader holds the log: {bytes} bytes");
    drop(pinned);
    for n in 0..3 {
        store.create(&job(&format!("after-{n}"))).await.unwrap();
    }
    assert!(store.0.place.wal_bytes() <= 16 << 20, "{} bytes", store.0.place.wal_bytes());
}

#[tokio::test]
async fn a_dropped_call_happens_whole_or_not_at_all() {
    let (store, _dir) = temporary().await;
    for n in 0..50 {
        let named = format!("job-{n}");
        let steps = ["a", "b"].iter().zip(0..);
        let steps = steps.map(|(name, at)| StepRecord::pending(at, name.parse().unwrap(), "true"));
        let record = JobRecord { steps: steps.collect(), ..job(&named) };
        {
            let mut call = std::pin::pin!(store.create(&record));
            // Polled once: the work has been handed over, and nobody waits for it.
            let first = std::future::poll_fn(|c| std::task::Poll::Ready(call.as_mut().poll(c)));
            let _ = first.await;
        }
        // The next writer waits for its turn, so what was begun is over.
        store.create(&job(&format!("next-{n}"))).await.unwrap();
        match store.get(&record.id).await {
            Ok(kept) => assert_eq!(kept, record),
            Err(error) => assert!(matches!(error, Error::NotFound { .. }), "{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_failed_or_panicking_call_leaves_nothing_and_the_store_goes_on() {
    let (store, _dir) = temporary().await;
    let insert = |transaction: &Transaction<'_>| {
        let row = params!["o", "k", b"v".as_slice()];
        transaction.execute(sql::INSERT_SECRET, row).map(|_| ())
    };
    let failed = store.write("fail", move |transaction| {
        insert(transaction)?;
        Err::<(), _>(Fault::Known(Error::NoJobs))
    });
    assert!(matches!(failed.await, Err(Error::NoJobs)));
    let panicking = store.clone();
    let task = tokio::spawn(async move {
        panicking
            .write::<(), _>("panic", move |transaction| {
                insert(transaction)?;
                panic!("a bug");
            })
            .await
    });
    assert!(task.await.unwrap_err().is_panic());
    let count = store.read("count", |transaction| {
        Ok(transaction.query_row("SELECT count(*) FROM secrets", [], |row| row.get::<_, i64>(0))?)
    });
    assert_eq!(count.await.unwrap(), 0);
    store.create(&job("j")).await.unwrap();
}

#[tokio::test]
async fn readers_cannot_write() {
    let (store, _dir) = temporary().await;
    let error = store.read("write", |t| Ok(t.execute("DELETE FROM jobs", [])?)).await.unwrap_err();
    assert!(matches!(error, Error::Unwritable { .. }), "{error:?}");
}

#[tokio::test]
async fn readers_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions::default().with_readers(2);
    let store = Store::open(&dir.path().join("danube.db"), options).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let store = store.clone();
        tasks.spawn(async move { store.list(&JobQuery::default()).await.map(|_| ()) });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap().unwrap();
    }
    assert!((1..=2).contains(&store.0.idle().len()));
    assert_eq!(StoreOptions::default().with_readers(0).readers, 1);
}

#[tokio::test]
async fn a_deleted_job_takes_its_steps_artifacts_and_secrets() {
    use danube_secrets::{SealedValue, SecretVault};
    let (store, _dir) = temporary().await;
    let steps = vec![StepRecord::pending(0, "a".parse().unwrap(), "true")];
    for named in ["j", "k"] {
        store.create(&JobRecord { steps: steps.clone(), ..job(named) }).await.unwrap();
        let (job, value) = (named.to_owned(), SealedValue::from_bytes(vec![1]));
        store
            .write("keep an artifact", move |transaction| {
                let row = params![
                    job,
                    "a",
                    format!("id of {job}"),
                    1,
                    "0".repeat(64),
                    "text/plain",
                    "document",
                    "active",
                    0,
                    None::<i64>,
                    None::<i64>,
                    false,
                    "{}"
                ];
                Ok(transaction.execute(sql::PUT_ARTIFACT, row)?)
            })
            .await
            .unwrap();
        for owner in [format!("job/{named}"), "pipeline/nightly".to_owned()] {
            store.put(&owner.parse().unwrap(), &"K".parse().unwrap(), &value).await.unwrap();
        }
    }
    store.write("delete", |t| Ok(t.execute("DELETE FROM jobs WHERE id = 'j'", [])?)).await.unwrap();
    let left = store.read("look", |transaction| {
        let mut left = transaction.prepare(
            "SELECT 'step ' || job_id FROM steps UNION SELECT 'artifact ' || job_id FROM artifacts \
             UNION SELECT owner FROM secrets",
        )?;
        Ok(left.query_map([], |row| row.get(0))?.collect::<Result<BTreeSet<String>, _>>()?)
    });
    let expected = ["artifact k", "job/k", "pipeline/nightly", "step k"];
    assert_eq!(left.await.unwrap(), expected.map(str::to_owned).into());
}

#[tokio::test]
async fn a_value_moved_to_another_row_does_not_open() {
    use danube_secrets::{Error, Keyring, SecretVault};
    let (store, _dir) = temporary().await;
    let keyring = Keyring::in_memory().unwrap();
    let rows = [("a", "K"), ("a", "L"), ("b", "K")].map(|(owner, key)| {
        (owner.parse::<danube_secrets::SecretOwner>().unwrap(), key.parse().unwrap())
    });
    for (owner, key) in &rows {
        let sealed = keyring.seal(owner, key, &format!("{owner} {key}").as_str().into()).unwrap();
        store.put(owner, key, &sealed).await.unwrap();
        let kept = SecretVault::get(&store, owner, key).await.unwrap();
        assert_eq!(
            keyring.open_value(owner, key, &kept).unwrap().expose(),
            format!("{owner} {key}").as_bytes()
        );
    }
    // By somebody who can write to the database and has no key: each value one row further.
    store
        .write("swap", |transaction| {
            transaction.execute_batch(
                "CREATE TEMP TABLE s AS SELECT row_number() OVER (ORDER BY owner, key) AS n, * FROM secrets; \
                 UPDATE secrets SET sealed = (SELECT o.sealed FROM s o, s t \
                     WHERE t.owner = secrets.owner AND t.key = secrets.key AND o.n = t.n % 3 + 1);",
            )?;
            Ok(())
        })
        .await
        .unwrap();
    let mut told = BTreeSet::new();
    for (owner, key) in &rows {
        let swapped = SecretVault::get(&store, owner, key).await.unwrap();
        let error = keyring.open_value(owner, key, &swapped).err().expect("refused");
        assert!(matches!(error, Error::CannotOpen { .. }), "{error}");
        told.insert(error.to_string().replace(&format!("{key} of {owner}"), ""));
    }
    assert_eq!(told.len(), 1, "{told:?}");
}

#[tokio::test]
async fn what_was_recorded_cannot_be_changed_and_the_oldest_goes_when_it_is_full() {
    use crate::{AuditLog, AuditQuery, MAX_AUDIT_EVENTS};
    use danube_core::{Audit, AuditAction, AuditActor, AuditEvent, AuditOutcome};
    let (store, _dir) = temporary().await;
    let event = AuditEvent {
        at: Timestamp::UNIX_EPOCH,
        actor: AuditActor::User(0),
        action: AuditAction::SecretSet,
        object: "o/K".to_owned(),
        outcome: AuditOutcome::Done,
    };
    store.record(&event).await.unwrap();
    let changed = store
        .write("change", |t| Ok(t.execute("UPDATE audit SET actor = 'user/1'", [])?))
        .await
        .unwrap_err();
    let cause = std::error::Error::source(&changed).unwrap().to_string();
    assert!(cause.contains("what was recorded is not changed"), "{cause}");

    let fill = format!(
        "WITH RECURSIVE n(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n < {MAX_AUDIT_EVENTS}) \
         INSERT INTO audit SELECT n, 0, 'user/0', 'secret.set', 'filled', 'done' FROM n"
    );
    store.write("fill", move |t| Ok(t.execute_batch(&fill)?)).await.unwrap();
    let oldest = |n: u64| AuditQuery::default().with_before(n + 1).with_limit(1);
    assert_eq!(store.events(&oldest(1)).await.unwrap().len(), 1);
    store.record(&event).await.unwrap();
    assert!(store.events(&oldest(1)).await.unwrap().is_empty());
    assert_eq!(store.events(&oldest(2)).await.unwrap().len(), 1);
    let newest = store.events(&AuditQuery::default().with_limit(1)).await.unwrap();
    assert_eq!(newest[0].number, MAX_AUDIT_EVENTS + 1);
}

#[tokio::test]
async fn only_the_record_of_a_new_artifact_that_does_not_count_yet_waits_for_no_disk() {
    use danube_artifacts::{ArtifactIndex, ArtifactRecord, RecordChange};

    let (store, _dir) = temporary().await;
    // 2 is FULL, and 1 is NORMAL.
    let waited_for = async || {
        let writer = store.0.writer.lock().await;
        writer.pragma_query_value(None, "synchronous", |row| row.get::<_, i64>(0)).unwrap()
    };
    let record = |state: &str| {
        let digest = "ab".repeat(32);
        let written = serde_json::json!({
            "job": "j", "name": "a", "size_bytes": 1, "digest": digest, "content_type": "a/b",
            "state": state, "created_at": "1970-01-01T00:00:00Z",
        });
        serde_json::from_value::<ArtifactRecord>(written).unwrap()
    };
    let uploading = record("uploading");
    ArtifactIndex::put(&store, &uploading).await.unwrap();
    assert_eq!(waited_for().await, 1);
    let active = RecordChange::state(record("active").state);
    store.change(&uploading.job, &uploading.name, &active).await.unwrap();
    assert_eq!(waited_for().await, 2);
    // The bytes are others already: after a power cut nobody may find the active record again.
    ArtifactIndex::put(&store, &uploading).await.unwrap();
    assert_eq!(waited_for().await, 2);
    store.remove(&uploading.job, &uploading.name).await.unwrap();
    ArtifactIndex::put(&store, &record("active")).await.unwrap();
    assert_eq!(waited_for().await, 2);
}

#[tokio::test]
async fn printing_a_store_tells_where_it_is_and_nothing_else() {
    let (store, dir) = temporary().await;
    let path = dir.path().join("danube.db");
    assert_eq!(store.to_string(), format!("the database {}", path.display()));
    assert_eq!(format!("{store:?}"), format!("Store {{ path: {path:?}, .. }}"));
}
