//! Dead owners, living owners, and several who want to tell.

use danube_core::JobState;
use danube_exec::Script;
use danube_logs::{FollowEvent, Follower, MemoryLogs};
use tokio::sync::Notify;

use super::*;
use crate::fixture::{House, job};

/// A job that runs and whose log belongs to the store returned; drop it and the owner is dead.
async fn running(house: &House) -> MemoryLogs {
    let owner = house.memory_logs.other_owner();
    recorded(house).await;
    owner.open(&job()).await.unwrap();
    let to_running = Transition::new(JobState::Running, house.clock.now());
    house.jobs.transition(&job(), &to_running).await.unwrap();
    owner
}

async fn recorded(house: &House) {
    let record = JobRecord::pending(job(), "a job", house.clock.now());
    house.jobs.create(&record).await.unwrap();
}

async fn recovered(house: &House) -> Vec<JobRecord> {
    recover(&house.jobs, &house.logs, &house.blobs, &house.clock()).await.unwrap()
}

#[tokio::test]
async fn a_job_whose_owner_lives_is_left_alone() {
    let house = House::new([]);
    let _owner = running(&house).await;
    house.clock.advance(Duration::from_secs(1_000_000));
    assert!(recovered(&house).await.is_empty());
    assert_eq!(house.jobs.get(&job()).await.unwrap().state, JobState::Running);
}

#[tokio::test]
async fn a_job_whose_owner_died_is_lost_and_says_why() {
    let house = House::new([]);
    let owner = running(&house).await;
    owner.append(&job(), 0, "[t] [one] [stdout] torn".into()).await.unwrap();
    drop(owner);
    let ended = recovered(&house).await;
    let log = house.log().await;
    let note = "[2024-01-06T12:00:00.000Z] [danube] [danube] the process that ran this job died\n";
    let cut = "[2024-01-06T12:00:00.000Z] [danube] [danube] [the line above was cut off: whoever wrote this log died]\n";
    assert_eq!(log, format!("[t] [one] [stdout] torn\n{cut}{note}"));
    let [record] = &ended[..] else { panic!("one job: {ended:?}") };
    assert_eq!(*record, house.jobs.get(&job()).await.unwrap());
    assert_eq!(record.state, JobState::Lost);
    assert_eq!(record.lost_reason, Some(LostReason::OwnerDied));
    assert_eq!(record.message.as_deref(), Some(WHY));
    assert_eq!(record.log_bytes, log.len() as u64);
    assert_eq!(house.logs.stat(&job()).await.unwrap().phase, LogPhase::Sealed);
    assert!(recovered(&house).await.is_empty());
}

#[tokio::test]
async fn a_follower_of_a_dead_job_comes_to_its_end() {
    let house = House::new([]);
    let owner = running(&house).await;
    let mut follower = Follower::new(house.logs.clone(), job(), 0);
    owner.append(&job(), 0, "line\n".into()).await.unwrap();
    drop(owner);
    recovered(&house).await;
    let mut seen = Vec::new();
    loop {
        match follower.next().await.unwrap() {
            FollowEvent::Bytes { bytes, .. } => seen.extend_from_slice(&bytes),
            FollowEvent::End(LogPhase::Sealed) => break,
            _ => {}
        }
    }
    assert_eq!(seen, house.log().await.as_bytes());
}

#[tokio::test]
async fn of_several_who_recover_one_ends_the_job() {
    let house = House::new([]);
    drop(running(&house).await);
    let owners: Vec<Arc<dyn LogStore>> =
        (0..8).map(|_| Arc::new(house.memory_logs.other_owner()) as Arc<dyn LogStore>).collect();
    let clock = house.clock();
    let all = owners.iter().map(|logs| recover(&house.jobs, logs, &house.blobs, &clock));
    let ended = futures_util::future::join_all(all).await;
    let ended: usize = ended.into_iter().map(|jobs| jobs.unwrap().len()).sum();
    assert_eq!(ended, 1);
    assert_eq!(house.log().await.lines().count(), 1);
}

#[tokio::test]
async fn a_job_without_a_log_is_given_time_to_begin() {
    let house = House::new([]);
    recorded(&house).await;
    house.clock.advance(Duration::from_secs(60));
    assert!(recovered(&house).await.is_empty());
    // A clock that was set back proves nothing.
    house.clock.set("2023-01-01T00:00:00Z".parse().unwrap());
    assert!(recovered(&house).await.is_empty());
    house.clock.set("2024-01-06T12:01:01Z".parse().unwrap());
    assert_eq!(recovered(&house).await.len(), 1);
    assert_eq!(house.logs.stat(&job()).await.unwrap().phase, LogPhase::Sealed);
    // The owner that comes late finds out.
    let late = house.memory_logs.other_owner().open(&job()).await;
    assert_eq!(late.unwrap_err().class(), ErrorClass::Conflict);
}

#[tokio::test]
async fn whoever_signs_is_alive_until_the_sealed_log_is_let_go() {
    let house = House::new([]);
    recorded(&house).await;
    let owner: Arc<dyn LogStore> = Arc::new(house.memory_logs.other_owner());
    let options = LogOptions::default();
    let log = LogWriter::create(owner, job(), house.clock(), options).await.unwrap();
    log.note("the end").await.unwrap();
    let sealed = log.seal().await.unwrap();
    let before = house.log().await;
    house.clock.advance(Duration::from_secs(1_000_000));
    assert!(recovered(&house).await.is_empty());
    drop(sealed);
    let ended = recovered(&house).await;
    assert_eq!((ended.len(), ended[0].log_bytes), (1, before.len() as u64));
    assert_eq!(house.log().await, before);
}

/// A job with one artifact whose owner dies when it comes to this.
async fn dying_at(what: &'static str) -> (House, JobRecord) {
    let house = House::new([Script::new()]);
    std::fs::write(house.work_dir().join("a"), "a").unwrap();
    let mut spec = house.spec(&["one"]);
    spec.artifacts.paths = vec!["a".into()];
    let reached = Arc::new(Notify::new());
    let tell = reached.clone();
    house.diary.hang_when(move |written| {
        let here = written == what;
        if here {
            tell.notify_one();
        }
        here
    });
    tokio::select! {
        _ = house.run(spec) => panic!("it hangs"),
        () = reached.notified() => {}
    }
    let seen = house.jobs.get(&job()).await.unwrap();
    (house, seen)
}

async fn is_proved(house: &House) -> bool {
    let keys = house.blobs.list(&job()).await.unwrap();
    keys.contains(&BlobKey::envelope(&job())) || keys.contains(&BlobKey::provenance(&job()))
}

#[tokio::test(start_paused = true)]
async fn a_proof_whose_job_never_came_to_succeed_goes() {
    for what in ["blob put job-1/.danube/provenance.json", "job transition succeeded"] {
        let (house, _) = dying_at(what).await;
        assert!(is_proved(&house).await, "{what}");
        // What cannot be taken back leaves the job to the next who tries.
        house.diary.fail_when(|what| what.starts_with("blob delete"));
        assert!(recovered(&house).await.is_empty() && is_proved(&house).await, "{what}");
        house.diary.fail_when(|_| false);
        assert_eq!(recovered(&house).await.len(), 1, "{what}");
        assert!(!is_proved(&house).await, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_proof_of_a_job_that_succeeded_after_it_was_listed_stays() {
    let (house, seen) = dying_at("job transition succeeded").await;
    house.diary.hang_when(|_| false);
    let passed = Transition::new(JobState::Succeeded, house.clock.now());
    house.jobs.transition(&job(), &passed).await.unwrap();
    let ended = end_if_dead(&house.jobs, &house.logs, &house.blobs, &house.clock(), &seen).await;
    assert_eq!(ended, Ok(None));
    assert!(is_proved(&house).await);
}

#[tokio::test]
async fn the_log_of_a_job_that_has_a_verdict_is_sealed_without_a_word() {
    let house = House::new([]);
    drop(running(&house).await);
    let seen = house.jobs.get(&job()).await.unwrap();
    let failed = Transition::new(JobState::Failed, house.clock.now());
    house.jobs.transition(&job(), &failed).await.unwrap();
    let ended = end_if_dead(&house.jobs, &house.logs, &house.blobs, &house.clock(), &seen).await;
    assert_eq!(ended, Ok(None));
    assert_eq!(house.jobs.get(&job()).await.unwrap().state, JobState::Failed);
    let stat = house.logs.stat(&job()).await.unwrap();
    assert_eq!((stat.phase, stat.len), (LogPhase::Sealed, 0));
}

#[tokio::test]
async fn a_full_disk_does_not_hide_that_the_owner_died() {
    let house = House::new([]);
    let owner = running(&house).await;
    owner.append(&job(), 0, "line\n".into()).await.unwrap();
    drop(owner);
    house.diary.fail_when(|what| what == "log append" || what == "log seal");
    let ended = recovered(&house).await;
    assert_eq!(ended[0].lost_reason, Some(LostReason::OwnerDied));
    assert_eq!(ended[0].log_bytes, 5);
}

#[tokio::test]
async fn one_job_that_cannot_be_recovered_does_not_keep_the_others() {
    let house = House::new([]);
    for name in ["a1", "a2", "a3"] {
        let id: danube_core::JobId = name.parse().unwrap();
        let record = JobRecord::pending(id.clone(), name, house.clock.now());
        house.jobs.create(&record).await.unwrap();
        house.memory_logs.other_owner().open(&id).await.unwrap();
    }
    let first = std::sync::atomic::AtomicBool::new(true);
    house.diary.fail_when(move |what| {
        what == "log open" && first.swap(false, std::sync::atomic::Ordering::Relaxed)
    });
    assert_eq!(recovered(&house).await.len(), 2);
    assert_eq!(recovered(&house).await.len(), 1);
}

#[tokio::test]
async fn a_log_that_its_owner_could_not_seal_is_sealed_later() {
    let house = House::new([]);
    drop(running(&house).await);
    let living: danube_core::JobId = "living".parse().unwrap();
    house.logs.open(&living).await.unwrap();
    let gone: danube_core::JobId = "without-a-record".parse().unwrap();
    house.memory_logs.other_owner().open(&gone).await.unwrap();
    let count = async || seal_abandoned(&house.jobs, &house.logs, &house.clock()).await.unwrap();
    // The job has not ended: that is for `recover` to say.
    assert_eq!(count().await, 1);
    let lost = Transition::lost(LostReason::LogWrite, house.clock.now());
    house.jobs.transition(&job(), &lost).await.unwrap();
    house.diary.fail_when(|what| what == "log seal");
    assert_eq!(count().await, 0);
    house.diary.fail_when(|_| false);
    assert_eq!(count().await, 1);
    assert_eq!(count().await, 0);
    for (id, phase) in [(&gone, LogPhase::Sealed), (&living, LogPhase::Open)] {
        assert_eq!(house.logs.stat(id).await.unwrap().phase, phase);
    }
}
