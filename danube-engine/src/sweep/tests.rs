//! What the reaper sees of jobs, and what it may not touch.

use danube_artifacts::ArtifactSweep;
use danube_core::{CandidateKind, ErrorClass, JobState};
use danube_exec::Script;
use danube_logs::{LogStore, LogSweep};
use danube_reaper::{Reaper, Retention};
use danube_store::Transition;

use super::*;
use crate::fixture::{House, job};

fn logs(house: &House) -> JobSweep {
    let inner = Arc::new(LogSweep::new(house.logs.clone()));
    JobSweep::new(inner, house.jobs.clone(), house.clock())
}

fn artifacts(house: &House) -> JobSweep {
    let inner = Arc::new(ArtifactSweep::new(house.blobs.clone(), house.index.clone()));
    JobSweep::new(inner, house.jobs.clone(), house.clock())
}

/// A job that succeeded and kept two files, an hour after it began.
async fn finished(retention_days: Option<u32>) -> House {
    let house = House::new([Script::new().stdout("a\n")]);
    std::fs::write(house.work_dir().join("a"), "aa").unwrap();
    std::fs::write(house.work_dir().join("b"), "bbb").unwrap();
    let mut spec = house.spec(&["one"]);
    spec.artifacts.paths = vec!["*".into()];
    spec.retention_days = retention_days;
    assert_eq!(house.run(spec).await.exit_code(), 0);
    house
}

#[tokio::test]
async fn what_belongs_to_a_job_rests_since_the_job_ended() {
    let house = finished(Some(14)).await;
    let ended = house.jobs.get(&job()).await.unwrap().finished_at;
    assert!(ended.is_some());
    for (sweep, count) in [(logs(&house), 1), (artifacts(&house), 2)] {
        let candidates = sweep.candidates().await.unwrap();
        assert_eq!(candidates.len(), count);
        for candidate in candidates {
            assert_eq!(candidate.finished_at, ended);
            assert_eq!(candidate.keep_for, Some(Duration::from_secs(14 * 86_400)));
        }
    }
}

#[tokio::test]
async fn nothing_of_a_job_that_runs_is_at_rest_or_deleted() {
    let house = House::new([]);
    let record = JobRecord::pending(job(), "a job", house.clock.now());
    house.jobs.create(&record).await.unwrap();
    // Its log is sealed and an artifact is stored: the bare sweeps would let both go.
    let options = danube_logs::LogOptions::default();
    let log = danube_logs::LogWriter::create(house.logs.clone(), job(), house.clock(), options);
    log.await.unwrap().seal().await.unwrap();
    let body = danube_artifacts::bytes_stream("abc");
    let name = "a".parse().unwrap();
    let keep = danube_artifacts::KeepOptions::default();
    let kept = house.artifacts().keep(&job(), &name, body, keep).await.unwrap();
    house.artifacts().sign(&kept).await.unwrap();
    for sweep in [logs(&house), artifacts(&house)] {
        let [candidate] = &sweep.candidates().await.unwrap()[..] else { panic!("one") };
        assert_eq!(candidate.finished_at, None);
        let refused = sweep.reap(candidate).await.unwrap_err();
        assert_eq!(refused.class(), ErrorClass::Conflict);
    }
    assert!(house.logs.stat(&job()).await.is_ok());
    assert_eq!(house.artifacts().list(&job()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_log_that_its_owner_did_not_seal_rests_when_somebody_has() {
    let house = House::new([]);
    let record = JobRecord::pending(job(), "a job", house.clock.now());
    house.jobs.create(&record).await.unwrap();
    house.memory_logs.other_owner().open(&job()).await.unwrap();
    let failed = Transition::new(JobState::Failed, house.clock.now());
    house.jobs.transition(&job(), &failed).await.unwrap();
    let sweep = logs(&house);
    let [candidate] = &sweep.candidates().await.unwrap()[..] else { panic!("one") };
    assert_eq!(candidate.finished_at, None);
    let ended = house.clock.now();
    house.clock.advance(Duration::from_secs(60));
    crate::seal_abandoned(&house.jobs, &house.logs, &house.clock()).await.unwrap();
    let [candidate] = &sweep.candidates().await.unwrap()[..] else { panic!("one") };
    assert_eq!(candidate.finished_at, Some(ended));
    sweep.reap(candidate).await.unwrap();
    assert!(house.logs.stat(&job()).await.is_err());
}

#[tokio::test]
async fn what_no_job_knows_keeps_its_own_facts() {
    let house = House::new([]);
    let options = danube_logs::LogOptions::default();
    let log = danube_logs::LogWriter::create(house.logs.clone(), job(), house.clock(), options);
    log.await.unwrap().seal().await.unwrap();
    let sweep = logs(&house);
    let bare = LogSweep::new(house.logs.clone()).candidates().await.unwrap();
    assert_eq!(sweep.candidates().await.unwrap(), bare);
    sweep.reap(&bare[0]).await.unwrap();
    assert!(house.logs.stat(&job()).await.is_err());
}

#[tokio::test]
async fn an_own_time_to_keep_wins_over_the_job() {
    let house = finished(Some(14)).await;
    let name = "kept".parse().unwrap();
    let week = Duration::from_secs(7 * 86_400);
    let keep = danube_artifacts::KeepOptions::default().with_keep_for(Some(week));
    let body = danube_artifacts::bytes_stream("abc");
    house.artifacts().keep(&job(), &name, body, keep).await.unwrap();
    let candidates = artifacts(&house).candidates().await.unwrap();
    let own = candidates.iter().find(|candidate| candidate.id == "kept").unwrap();
    assert_eq!(own.keep_for, Some(week));
    // It was never signed, but its job is over: it rests too.
    assert!(own.finished_at.is_some());
}

#[tokio::test]
async fn what_is_added_to_a_job_that_is_over_has_its_whole_time() {
    let house = finished(Some(14)).await;
    let day = Duration::from_secs(86_400);
    house.clock.advance(20 * day);
    let blobs = house.artifacts();
    let keep = danube_artifacts::KeepOptions::default();
    let (own, jobs) = ("own".parse().unwrap(), "jobs".parse().unwrap());
    for (name, keep_for) in [(&own, Some(7 * day)), (&jobs, None)] {
        let keep = keep.clone().with_keep_for(keep_for);
        let body = danube_artifacts::bytes_stream("abc");
        let kept = blobs.keep(&job(), name, body, keep).await.unwrap();
        blobs.sign(&kept).await.unwrap();
    }
    // What came by a link and nobody recorded yet.
    let key = danube_artifacts::BlobKey::artifact(&job(), &"linked".parse().unwrap());
    let put = danube_artifacts::PutOptions::default();
    house.blobs.put(&key, danube_artifacts::bytes_stream("abc"), put).await.unwrap();
    let reaper = Reaper::new(house.clock(), Retention::default())
        .with_sweep(CandidateKind::Artifact, Arc::new(artifacts(&house)));
    let reaped = async || {
        let report = reaper.run().await.unwrap();
        assert!(report.failed.is_empty());
        report.reaped.into_iter().map(|(candidate, _)| candidate.id).collect::<Vec<_>>()
    };
    assert_eq!(reaped().await, ["a", "b"], "those of the job itself");
    house.clock.advance(8 * day);
    assert_eq!(reaped().await, ["own"]);
    house.clock.advance(7 * day);
    assert_eq!(reaped().await, ["jobs", "linked"]);
}

#[tokio::test]
async fn a_reaper_deletes_by_the_jobs_age_and_the_record_tells() {
    let house = finished(Some(2)).await;
    let reaper = Reaper::new(house.clock(), Retention::default())
        .with_sweep(CandidateKind::Log, Arc::new(logs(&house)))
        .with_sweep(CandidateKind::Artifact, Arc::new(artifacts(&house)));
    house.clock.advance(Duration::from_secs(2 * 86_400 - 1));
    assert!(reaper.run().await.unwrap().reaped.is_empty());
    house.clock.advance(Duration::from_secs(2));
    let report = reaper.run().await.unwrap();
    assert_eq!((report.reaped.len(), report.failed.len()), (3, 0));
    let record = house.jobs.get(&job()).await.unwrap();
    assert_eq!(record.log_deleted_at, Some(house.clock.now()));
    assert_eq!(record.artifacts_deleted_at, Some(house.clock.now()));
    assert_eq!(record.state, JobState::Succeeded);
    assert!(house.blobs.list(&job()).await.unwrap().is_empty());
    assert!(reaper.run().await.unwrap().reaped.is_empty());
}

#[tokio::test]
async fn what_is_gone_can_be_reaped_again_and_is_marked_then() {
    let house = finished(None).await;
    let sweep = logs(&house);
    let [candidate] = &sweep.candidates().await.unwrap()[..] else { panic!("one") };
    // The log goes, and the mark does not fit on the disk.
    house.diary.fail_when(|what| what == "job mark log");
    let failed = sweep.reap(candidate).await.unwrap_err();
    assert_eq!(failed.class(), ErrorClass::Exhausted);
    assert_eq!(failed.to_string(), "noting that log job-1 is deleted failed");
    house.diary.fail_when(|_| false);
    assert_eq!(sweep.reap(candidate).await.unwrap().bytes_freed, 0);
    assert!(house.jobs.get(&job()).await.unwrap().log_deleted_at.is_some());
}
