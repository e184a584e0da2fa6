//! The service against other jobs, early ends, and a record that refuses.

use std::sync::Mutex;

use async_trait::async_trait;
use danube_core::{AuditError, ErrorClass, ManualClock, Timestamp};
use metrics_exporter_prometheus::PrometheusBuilder;

use super::*;
use crate::{MAX_SECRET_BYTES, MemoryVault, SealedValue};

/// Keeps what is recorded, up to a number of events.
#[derive(Debug)]
struct Record {
    seen: Mutex<Vec<AuditEvent>>,
    room: usize,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the record of this test")
    }
}

#[async_trait]
impl Audit for Record {
    async fn record(&self, event: &AuditEvent) -> Result<(), AuditError> {
        let mut seen = self.seen.lock().unwrap();
        if seen.len() >= self.room {
            let (log, source) = (self.to_string(), "it is full".into());
            return Err(AuditError { log, class: ErrorClass::Exhausted, source });
        }
        seen.push(event.clone());
        Ok(())
    }
}

struct House {
    service: SecretService,
    vault: MemoryVault,
    keyring: Arc<Keyring>,
    record: Arc<Record>,
}

impl House {
    fn new() -> Self {
        Self::with(usize::MAX, SecretServiceOptions::default())
    }

    fn with(room: usize, options: SecretServiceOptions) -> Self {
        let (vault, keyring) = (MemoryVault::new(), Arc::new(Keyring::in_memory().unwrap()));
        let record = Arc::new(Record { seen: Mutex::default(), room });
        let service = SecretService::new(
            Arc::new(vault.clone()),
            keyring.clone(),
            record.clone(),
            Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH)),
            options,
        );
        Self { service, vault, keyring, record }
    }

    async fn put(&self, owner: &str, key: &str, value: &str) {
        let (owner, key) = (owner.parse().unwrap(), key.parse().unwrap());
        let sealed = self.keyring.seal(&owner, &key, &value.into()).unwrap();
        self.vault.put(&owner, &key, &sealed).await.unwrap();
    }

    async fn load(&self, job: &str, owner: &str, keys: &[&str]) -> Result<LoadedSecrets, Error> {
        let keys: Vec<SecretKey> = keys.iter().map(|key| key.parse().unwrap()).collect();
        self.service.load(&id(job), &owner.parse().unwrap(), &keys).await
    }

    async fn get(&self, job: &str, key: &str) -> Result<String, Error> {
        let value = self.service.get(&id(job), &key.parse().unwrap()).await?;
        Ok(String::from_utf8(value.expose().to_vec()).unwrap())
    }

    fn recorded(&self) -> Vec<String> {
        let seen = std::mem::take(&mut *self.record.seen.lock().unwrap());
        seen.iter()
            .map(|e| format!("{} {} {} {}", e.actor, e.action, e.object, e.outcome))
            .collect()
    }
}

fn id(job: &str) -> JobId {
    job.parse().unwrap()
}

#[tokio::test]
async fn a_job_gets_what_was_loaded_for_it_until_it_ends() {
    let house = House::new();
    house.put("nightly", "TOKEN", "hunter2").await;
    house.put("nightly", "OTHER", "not asked for").await;
    let loaded = house.load("a", "nightly", &["TOKEN"]).await.unwrap();
    assert_eq!(house.get("a", "TOKEN").await.unwrap(), "hunter2");
    assert!(matches!(house.get("a", "OTHER").await, Err(Error::NotLoaded { .. })));
    assert_eq!(house.service.len(), 1);
    drop(loaded);
    let error = house.get("a", "TOKEN").await.unwrap_err();
    assert_eq!(error.to_string(), "job a has no secret TOKEN: none of this name is loaded for it");
    assert_eq!(error.class(), ErrorClass::Denied);
    assert!(house.service.is_empty());
}

#[tokio::test]
async fn a_job_never_gets_what_was_loaded_for_another() {
    let house = House::new();
    house.put("one", "TOKEN", "of one").await;
    house.put("two", "TOKEN", "of two").await;
    house.put("two", "ALONE", "of two alone").await;
    let _one = house.load("a", "one", &["TOKEN"]).await.unwrap();
    let two = house.load("b", "two", &["TOKEN", "ALONE"]).await.unwrap();
    assert_eq!(house.get("a", "TOKEN").await.unwrap(), "of one");
    assert_eq!(house.get("b", "TOKEN").await.unwrap(), "of two");
    // It is not told either whether anybody has one of this name.
    let theirs = house.get("a", "ALONE").await.unwrap_err().to_string();
    let nobodys = house.get("a", "NOBODYS").await.unwrap_err().to_string();
    assert_eq!(theirs.replace("ALONE", "NOBODYS"), nobodys);
    assert!(house.get("c", "TOKEN").await.is_err());
    drop(two);
    assert_eq!(house.get("a", "TOKEN").await.unwrap(), "of one");
}

#[tokio::test]
async fn a_panic_and_a_dropped_future_clear_as_an_end_does() {
    let house = Arc::new(House::new());
    house.put("o", "TOKEN", "hunter2").await;
    let (of_task, held) = (house.clone(), Arc::new(tokio::sync::Notify::new()));
    let panics = tokio::spawn(async move {
        let _loaded = of_task.load("a", "o", &["TOKEN"]).await.unwrap();
        assert_eq!(of_task.service.len(), 1);
        panic!("a step went wrong");
    });
    assert!(panics.await.unwrap_err().is_panic());
    assert!(house.service.is_empty());

    let (of_task, tell) = (house.clone(), held.clone());
    let dropped = tokio::spawn(async move {
        let _loaded = of_task.load("a", "o", &["TOKEN"]).await.unwrap();
        tell.notify_one();
        std::future::pending::<()>().await;
    });
    held.notified().await;
    assert_eq!(house.service.len(), 1);
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    assert!(house.service.is_empty());
}

/// A vault that stands still in `get` until it is let go on.
#[derive(Debug, Clone)]
struct Slow(MemoryVault, Arc<tokio::sync::Semaphore>, Arc<tokio::sync::Notify>);

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a slow vault")
    }
}

#[async_trait]
impl SecretVault for Slow {
    async fn get(&self, owner: &SecretOwner, key: &SecretKey) -> Result<SealedValue, Error> {
        self.2.notify_one();
        self.1.acquire().await.unwrap().forget();
        self.0.get(owner, key).await
    }

    async fn put(&self, _: &SecretOwner, _: &SecretKey, _: &SealedValue) -> Result<(), Error> {
        unreachable!("this vault is only read")
    }

    async fn delete(&self, _: &SecretOwner, _: &SecretKey) -> Result<bool, Error> {
        unreachable!("this vault is only read")
    }

    async fn list(&self, _: &SecretOwner) -> Result<Vec<SecretKey>, Error> {
        unreachable!("this vault is only read")
    }

    async fn replace_if(
        &self,
        _: &SecretOwner,
        _: &SecretKey,
        _: &SealedValue,
        _: &SealedValue,
    ) -> Result<bool, Error> {
        unreachable!("this vault is only read")
    }

    async fn owners(&self, _: Option<&SecretOwner>) -> Result<Vec<SecretOwner>, Error> {
        unreachable!("this vault is only read")
    }
}

#[tokio::test]
async fn a_job_that_ends_while_its_secrets_are_loaded_leaves_none_behind() {
    let house = House::new();
    house.put("o", "TOKEN", "hunter2").await;
    let (room, asked) =
        (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(tokio::sync::Notify::new()));
    let slow = Slow(house.vault.clone(), room.clone(), asked.clone());
    let service = SecretService::new(
        Arc::new(slow),
        house.keyring.clone(),
        house.record.clone(),
        Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH)),
        SecretServiceOptions::default(),
    );
    let load = |service: SecretService| {
        tokio::spawn(async move {
            let keys = ["TOKEN".parse().unwrap()];
            service.load(&id("a"), &"o".parse().unwrap(), &keys).await
        })
    };
    // Cleared by its name while the vault is asked.
    let loading = load(service.clone());
    asked.notified().await;
    assert!(matches!(load(service.clone()).await.unwrap(), Err(Error::AlreadyLoaded { .. })));
    assert_eq!(service.clear(&id("a")), 0);
    room.add_permits(1);
    assert!(matches!(loading.await.unwrap(), Err(Error::Cleared { .. })));
    assert!(service.is_empty());
    // Dropped while the vault is asked.
    let loading = load(service.clone());
    asked.notified().await;
    loading.abort();
    assert!(loading.await.unwrap_err().is_cancelled());
    room.add_permits(1);
    let _loaded = load(service.clone()).await.unwrap().unwrap();
    assert_eq!(service.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_outlives_its_time_is_given_to_nobody() {
    let options = SecretServiceOptions::default().with_ttl(Duration::from_secs(60));
    let house = House::with(usize::MAX, options);
    house.put("o", "TOKEN", "hunter2").await;
    let loaded = house.load("a", "o", &["TOKEN"]).await.unwrap();
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(house.get("a", "TOKEN").await.is_ok());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(matches!(house.get("a", "TOKEN").await, Err(Error::NotLoaded { .. })));
    assert!(house.service.is_empty());
    // The next load of the job is not ended by what is left of the first.
    let _again = house.load("a", "o", &["TOKEN"]).await.unwrap();
    drop(loaded);
    assert_eq!(house.get("a", "TOKEN").await.unwrap(), "hunter2");
}

#[tokio::test(start_paused = true)]
async fn what_outlives_its_time_is_gone_although_nobody_calls() {
    let options = SecretServiceOptions::default().with_ttl(Duration::from_secs(60));
    let house = House::with(usize::MAX, options);
    house.put("o", "TOKEN", "hunter2").await;
    let loaded = house.load("a", "o", &["TOKEN"]).await.unwrap();
    let held = || house.service.0.slots.len();
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(held(), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(held(), 0);
    drop(loaded);
    // What ended in time leaves no timer behind, and for ever is a time too.
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    drop(house.load("a", "o", &["TOKEN"]).await.unwrap());
    tokio::task::yield_now().await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), before);
    let house = House::with(usize::MAX, SecretServiceOptions::default().with_ttl(Duration::MAX));
    house.put("o", "TOKEN", "hunter2").await;
    let _loaded = house.load("a", "o", &["TOKEN"]).await.unwrap();
    assert!(house.get("a", "TOKEN").await.is_ok());
}

#[tokio::test]
async fn a_load_that_fails_loads_nothing() {
    let house = House::new();
    house.put("o", "A", "hunter2").await;
    let error = house.load("a", "o", &["A", "MISSING"]).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let (owner, key) = ("o".parse().unwrap(), "B".parse().unwrap());
    house.vault.put(&owner, &key, &SealedValue::from_bytes(vec![1; 60])).await.unwrap();
    let error = house.load("a", "o", &["A", "B"]).await.unwrap_err();
    assert!(matches!(error, Error::CannotOpen { .. }), "{error}");
    assert!(house.service.is_empty());
    let _loaded = house.load("a", "o", &["A"]).await.unwrap();
}

#[tokio::test]
async fn every_access_is_recorded_with_who_and_which_and_never_a_value() {
    let house = House::new();
    house.put("nightly", "TOKEN", "hunter2-hunter2").await;
    let loaded = house.load("a", "nightly", &["TOKEN"]).await.unwrap();
    house.get("a", "TOKEN").await.unwrap();
    house.get("b", "TOKEN").await.unwrap_err();
    assert!(house.load("b", "nightly", &["MISSING"]).await.is_err());
    drop(loaded);
    let recorded = house.recorded();
    assert_eq!(
        recorded,
        [
            "job/a secret.loaded nightly/TOKEN done",
            "job/a secret.read nightly/TOKEN done",
            "job/b secret.read TOKEN refused",
            "job/b secret.loaded nightly/MISSING done",
            "job/b secret.loaded nightly/MISSING refused",
        ]
    );
    let everything = format!("{recorded:?} {:?}", house.service);
    assert!(!everything.contains("hunter2"), "{everything}");
}

#[tokio::test]
async fn what_cannot_be_recorded_does_not_happen() {
    let house = House::with(1, SecretServiceOptions::default());
    house.put("o", "A", "hunter2").await;
    house.put("o", "B", "hunter2").await;
    let error = house.load("a", "o", &["A", "B"]).await.unwrap_err();
    assert!(matches!(error, Error::Audit(_)), "{error}");
    assert_eq!(error.class(), ErrorClass::Exhausted);
    assert!(house.service.is_empty());

    let house = House::with(1, SecretServiceOptions::default());
    house.put("o", "A", "hunter2").await;
    let _loaded = house.load("a", "o", &["A"]).await.unwrap();
    assert!(matches!(house.get("a", "A").await, Err(Error::Audit(_))));
}

#[tokio::test]
async fn what_is_held_has_a_limit_and_one_job_leaving_makes_room() {
    let house = House::new();
    let longest = "x".repeat(MAX_SECRET_BYTES);
    let names: Vec<String> =
        (0..MAX_LOADED_BYTES / MAX_SECRET_BYTES / 2).map(|n| format!("K{n}")).collect();
    for name in &names {
        house.put("o", name, &longest).await;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let first = house.load("a", "o", &names).await.unwrap();
    let _second = house.load("b", "o", &names).await.unwrap();
    let error = house.load("c", "o", &names[..1]).await.unwrap_err();
    assert!(matches!(error, Error::TooManyLoaded), "{error}");
    drop(first);
    let _third = house.load("c", "o", &names[..1]).await.unwrap();
    assert_eq!(house.service.len(), names.len() + 1);
}

#[test]
fn the_gauge_tells_how_many_values_are_held() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let shown = || {
        let text = handle.render();
        let line = text.lines().find(|line| line.starts_with(CACHE_SIZE_GAUGE)).unwrap_or("none");
        line.rsplit(' ').next().unwrap_or_default().to_owned()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let house = House::new();
            house.put("o", "A", "hunter2").await;
            house.put("o", "B", "hunter2").await;
            let a = house.load("a", "o", &["A", "B"]).await.unwrap();
            let b = house.load("b", "o", &["A"]).await.unwrap();
            assert_eq!(shown(), "3");
            house.load("c", "o", &["MISSING"]).await.unwrap_err();
            drop(a);
            assert_eq!(shown(), "1");
            assert_eq!(house.service.clear(&id("b")), 1);
            drop(b);
            assert_eq!(shown(), "0");
        });
    });
}
