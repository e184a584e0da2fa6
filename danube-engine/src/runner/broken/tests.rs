//! What stays of jobs that did not pass, told by scripts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use danube_artifacts::{ArtifactState, BlobKey, Signature, Verifier};
use danube_core::{ArtifactName, Clock, JobState, LostReason, SecretBytes};
use danube_exec::Script;
use danube_logs::LogPhase;
use danube_store::Transition;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::fixture::{House, job};
use crate::runner::{Cancel, Progress};
use crate::{CollectWhen, JobSpec, Outcome, RunnerOptions};

fn quiet() -> Progress<'static> {
    &|_, _, _| {}
}

/// A house whose work directory holds `a`, `b` and `c`, and a job of these scripts that keeps what it has.
fn house(scripts: impl IntoIterator<Item = Script>) -> (House, JobSpec) {
    let house = House::new(scripts);
    for name in ["a", "b", "c"] {
        std::fs::write(house.work_dir().join(name), name).unwrap();
    }
    let mut spec = house.spec(&["one", "two"]);
    spec.artifacts.paths = vec!["*".into()];
    spec.artifacts.when = CollectWhen::Always;
    (house, spec)
}

/// What is there after a job that did not pass: just these files, signed and listed, and no provenance.
async fn assert_kept(house: &House, outcome: &Outcome, names: &[&str], desc: &str) {
    assert_ne!(outcome.job.state, JobState::Succeeded, "{desc}");
    let kept: Vec<_> = outcome.artifacts.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(kept, names, "{desc}");
    assert_eq!(house.artifacts().list(&job()).await.unwrap(), outcome.artifacts, "{desc}");
    let keys = house.public_keys();
    let mut blobs = Vec::new();
    for artifact in &outcome.artifacts {
        assert_eq!(artifact.state, ArtifactState::Active, "{desc}");
        assert_eq!(house.blob(&BlobKey::artifact(&job(), &artifact.name)).await.len(), 1, "{desc}");
        let signature = BlobKey::signature(&job(), &artifact.name);
        let bytes = Signature::from_bytes(house.blob(&signature).await);
        keys.verify(None, artifact.digest.as_bytes(), &bytes).unwrap();
        blobs.extend([BlobKey::artifact(&job(), &artifact.name), signature]);
    }
    // And the list of them.
    blobs.extend((!names.is_empty()).then(|| BlobKey::records(&job())));
    let mut left = house.blobs.list(&job()).await.unwrap();
    left.sort_by_key(ToString::to_string);
    blobs.sort_by_key(ToString::to_string);
    assert_eq!(left, blobs, "{desc}");
    let again = house.jobs.get(&job()).await.unwrap();
    assert_eq!(again, outcome.job, "{desc}");
}

const ALL: &[&str] = &["a", "b", "c"];

#[tokio::test(start_paused = true)]
async fn whatever_way_the_steps_ended_the_verdict_is_theirs_and_the_files_stay() {
    let ok = Script::new;
    type Case = (&'static str, Vec<Script>, JobState, Option<LostReason>, &'static [&'static str]);
    let lost = JobState::Lost;
    let cases: Vec<Case> = vec![
        ("it fails", vec![ok().exit(3)], JobState::Failed, None, ALL),
        ("it fails later", vec![ok(), ok().exit(1)], JobState::Failed, None, ALL),
        ("it is late", vec![ok().until_signalled()], JobState::TimedOut, None, ALL),
        ("it is lost", vec![ok().lose()], lost, Some(LostReason::Connection), ALL),
        (
            "the second is not started",
            vec![ok(), ok().not_started()],
            lost,
            Some(LostReason::NotStarted),
            ALL,
        ),
        // Nothing of what lies there is of this job.
        ("nothing began", vec![ok().not_started()], lost, Some(LostReason::NotStarted), &[]),
    ];
    for (desc, scripts, state, reason, names) in cases {
        let (house, mut spec) = house(scripts);
        spec.timeout = Some(Duration::from_secs(60));
        let outcome = house.run(spec).await;
        assert_eq!((outcome.job.state, outcome.job.lost_reason), (state, reason), "{desc}");
        assert_kept(&house, &outcome, names, desc).await;
        assert!(!house.log().await.contains("artifacts"), "{desc}: {}", house.log().await);
        assert!(outcome.log_digest.is_some(), "{desc}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_job_that_passes_the_proof_is_written_as_ever() {
    let (house, spec) = house([Script::new(), Script::new()]);
    let outcome = house.run(spec).await;
    assert_eq!((outcome.exit_code(), outcome.artifacts.len()), (0, 3));
    assert!(!house.blob(&BlobKey::envelope(&job())).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn files_are_copied_and_signed_before_the_seal_and_the_verdict_comes_last() {
    let (house, mut spec) = house([Script::new().exit(1)]);
    spec.artifacts.paths = vec!["a".into(), "b".into()];
    house.run(spec).await;
    let written = house.diary.written();
    let at = written.iter().position(|what| what == "job step one failed").unwrap();
    assert_eq!(
        written[at + 1..],
        [
            "blob put job-1/a",
            "blob put job-1/b",
            "blob put job-1/.danube/signatures/a.sig",
            "blob put job-1/.danube/signatures/b.sig",
            "log append",
            "log seal",
            "blob put job-1/.danube/metadata.json",
            "job transition failed",
            "log release",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_written_is_the_end_of_it() {
    let (house, spec) = house([Script::new().stdout("x\n").until_signalled()]);
    house.diary.fail_when(|what| what == "log append");
    let outcome = house.run(spec).await;
    assert_eq!(outcome.job.lost_reason, Some(LostReason::LogWrite));
    assert_kept(&house, &outcome, &[], "a full disk").await;
    assert!(!house.diary.written().iter().any(|what| what.starts_with("blob put")));
}

#[tokio::test(start_paused = true)]
async fn whatever_goes_wrong_is_told_and_hides_no_verdict() {
    type Fault = fn(&str) -> bool;
    let cases: [(&str, Fault, &[&str], &str); 4] = [
        (
            "a copy fails",
            |what| what == "blob put job-1/b",
            &["a", "c"],
            "not kept as an artifact: b: blobs in memory could not put job-1/b: no storage space",
        ),
        (
            "every copy fails",
            |what| what.starts_with("blob put"),
            &[],
            "not kept as an artifact: a: ",
        ),
        (
            "a signature fails",
            |what| what.ends_with("b.sig"),
            &["a", "c"],
            "not all artifacts could be signed and kept: b: ",
        ),
        (
            "no signature",
            |what| what.ends_with(".sig"),
            &[],
            "not all artifacts could be signed and kept: a: ",
        ),
    ];
    for (desc, fault, names, told) in cases {
        let (house, spec) = house([Script::new().exit(1)]);
        house.diary.fail_when(move |what| fault(what) && !what.starts_with("blob delete"));
        let outcome = house.run(spec).await;
        assert_eq!((outcome.job.state, outcome.exit_code()), (JobState::Failed, 1), "{desc}");
        assert_kept(&house, &outcome, names, desc).await;
        let log = house.log().await;
        assert!(log.contains(&format!("[danube] [danube] {told}")), "{desc}: {log}");
        assert!(log.ends_with("step \"one\" failed with exit code 1\n"), "{desc}: {log}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_work_directory_that_is_gone_and_a_log_that_fails_while_collecting_hide_nothing_either() {
    let (house, mut spec) = house([Script::new().exit(1)]);
    spec.work_dir = house.work_dir().join("gone");
    let outcome = house.run(spec).await;
    assert_eq!(outcome.exit_code(), 1);
    let log = house.log().await;
    assert!(log.contains("not all artifacts were collected: the artifacts could not be"), "{log}");
    assert_kept(&house, &outcome, &[], "gone").await;

    // The warning cannot be written; the line of the verdict cannot either, and the seal can.
    let (house, mut spec) = self::house([Script::new().exit(1)]);
    spec.artifacts.paths.push("nothing".into());
    house.diary.fail_when(|what| what == "log append");
    let outcome = house.run(spec).await;
    assert_ne!(outcome.job.state, JobState::Succeeded);
    assert!(outcome.job.message.unwrap().contains("step \"one\" failed with exit code 1"));
}

#[tokio::test(start_paused = true)]
async fn many_files_are_synced_before_they_are_signed_and_without_it_none_is() {
    for fails in [false, true] {
        let (house, spec) = house([Script::new().exit(1)]);
        for at in 0..30 {
            std::fs::write(house.work_dir().join(format!("n{at:02}")), "x").unwrap();
        }
        house.diary.fail_when(move |what| fails && what == "blob sync");
        let outcome = house.run(spec).await;
        assert_eq!((outcome.exit_code(), outcome.artifacts.len()), (1, if fails { 0 } else { 33 }));
        let written = house.diary.written();
        let signed = written.iter().position(|w| w.starts_with("blob put") && w.ends_with(".sig"));
        if fails {
            assert_kept(&house, &outcome, &[], "no sync").await;
            assert_eq!(signed, None);
            assert!(house.log().await.contains("could be signed and kept: "));
        } else {
            assert!(written.iter().position(|w| w == "blob sync") < signed, "{written:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_beyond_the_limits_is_left_out_by_name() {
    for by_host in [true, false] {
        let (mut house, mut spec) = house([Script::new().exit(1)]);
        std::fs::write(house.work_dir().join("big"), "four").unwrap();
        if by_host {
            house.options = RunnerOptions::default()
                .with_max_artifacts(2)
                .with_max_artifact_bytes(3)
                .with_max_total_artifact_bytes(1);
        } else {
            spec.artifacts.max_files = Some(2);
            spec.artifacts.max_file_bytes = Some(3);
            spec.artifacts.max_total_bytes = Some(1);
        }
        let outcome = house.run(spec).await;
        assert_kept(&house, &outcome, &["a"], "limits").await;
        let log = house.log().await;
        for told in [
            "b is beyond the limit of 1 bytes for all files",
            "big has 4 bytes, which is over the limit of 3",
            "c is beyond the limit of 2 files",
        ] {
            assert!(log.contains(&format!("not kept as an artifact: {told}\n")), "{log}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_passes_within_nothing_of_its_limits_has_no_verdict() {
    type Limit = fn(&mut JobSpec);
    let cases: [(Limit, &str); 2] = [
        (|spec| spec.artifacts.max_total_bytes = Some(2), "more than 2 bytes are in the files"),
        (|spec| spec.artifacts.max_files = Some(2), "more than 2 files match"),
    ];
    for (limit, told) in cases {
        let (house, mut spec) = house([Script::new(), Script::new()]);
        limit(&mut spec);
        let outcome = house.run(spec).await;
        assert_eq!(outcome.job.lost_reason, Some(LostReason::Collect));
        assert!(outcome.job.message.clone().unwrap().contains(told));
        assert_kept(&house, &outcome, &[], told).await;
    }
}

#[tokio::test]
async fn files_that_grow_while_others_are_copied_stay_within_the_limit_of_all() {
    let (house, mut spec) = house([Script::new().exit(1)]);
    spec.artifacts.max_total_bytes = Some(5);
    let grow = |_: &ArtifactName, _: u64, _: u64| {
        let _ = std::fs::write(house.work_dir().join("b"), "much longer");
    };
    let cancel = CancellationToken::new();
    let outcome = house.runner().run(spec, cancel, &grow).await.unwrap();
    assert_kept(&house, &outcome, &["a", "c"], "it grows").await;
    let log = house.log().await;
    let told = "not kept as an artifact: b: job-1/b is longer than the limit of 4 bytes\n";
    assert!(log.contains(told), "{log}");
}

/// A cancel that comes while the first file is copied.
async fn cancelled_at_the_first_file(
    house: &House,
    spec: JobSpec,
    cancel: &Cancel,
    all: bool,
) -> Outcome {
    let ask = |_: &ArtifactName, _: u64, _: u64| {
        cancel.job.cancel();
        if all {
            cancel.collecting.cancel();
        }
    };
    house.runner().run(spec, cancel.clone(), &ask).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_ended_the_steps_leaves_the_collecting_and_the_next_ends_it() {
    for twice in [false, true] {
        let (house, spec) = house([Script::new().until_signalled()]);
        let cancel = Cancel::default();
        let (first, runner) = (cancel.clone(), house.runner());
        let ask = |_: &ArtifactName, _: u64, _: u64| {
            if twice {
                first.collecting.cancel();
            }
        };
        let run = runner.run(spec, cancel.clone(), &ask);
        let end = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            cancel.job.cancel();
        };
        let (outcome, ()) = tokio::join!(run, end);
        let outcome = outcome.unwrap();
        assert_eq!((outcome.job.state, outcome.exit_code()), (JobState::Cancelled, 3));
        let names = if twice { &ALL[..1] } else { ALL };
        assert_kept(&house, &outcome, names, "cancelled").await;
        let told = "not all artifacts were collected: it was to end; files copied: 1\n";
        assert_eq!(house.log().await.contains(told), twice, "{}", house.log().await);
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_job_that_failed_the_first_cancel_ends_the_collecting() {
    for all in [false, true] {
        let (house, spec) = house([Script::new().exit(1)]);
        let outcome = cancelled_at_the_first_file(&house, spec, &Cancel::default(), all).await;
        assert_eq!(outcome.exit_code(), 1);
        assert_kept(&house, &outcome, &["a"], "failed").await;
    }
    // So does one that comes through the record.
    let (house, spec) = house([Script::new().exit(1)]);
    house.diary.hang_when(|what| what == "blob put job-1/b");
    let end = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        house.jobs.request_cancel(&job(), house.clock.now()).await.unwrap();
    };
    let begin = tokio::time::Instant::now();
    let (outcome, ()) = tokio::join!(house.run(spec), end);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!(outcome.exit_code(), 1);
    assert_kept(&house, &outcome, &["a"], "asked in the record").await;
}

#[tokio::test(start_paused = true)]
async fn one_who_is_asked_twice_before_the_steps_end_collects_nothing() {
    let (house, spec) = house([Script::new().stdout("x\n").until_signalled().deaf()]);
    let cancel = Cancel::default();
    let runner = house.runner();
    let run = runner.run(spec, cancel.clone(), quiet());
    let end = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        cancel.collecting.cancel();
    };
    let (outcome, ()) = tokio::join!(run, end);
    let outcome = outcome.unwrap();
    assert_eq!(outcome.job.state, JobState::Cancelled);
    assert_kept(&house, &outcome, &[], "twice").await;
}

#[tokio::test(start_paused = true)]
async fn a_job_cancelled_before_anything_began_keeps_nothing() {
    let (house, spec) = house([Script::new()]);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let outcome = house.runner().run(spec, cancel, quiet()).await.unwrap();
    assert_eq!(outcome.job.state, JobState::Cancelled);
    assert_kept(&house, &outcome, &[], "before").await;
}

#[tokio::test(start_paused = true)]
async fn it_takes_only_so_long() {
    let (mut house, spec) = house([Script::new().exit(1)]);
    house.options = RunnerOptions::default().with_collect_limit(Duration::from_secs(90));
    house.diary.hang_when(|what| what == "blob put job-1/b");
    let begin = tokio::time::Instant::now();
    let outcome = house.run(spec).await;
    assert_eq!(begin.elapsed().as_secs(), 90);
    assert_eq!(outcome.exit_code(), 1);
    assert_kept(&house, &outcome, &["a"], "it hangs").await;
    let told = "not all artifacts were collected: it took longer than 1m30s; files copied: 1\n";
    assert!(house.log().await.contains(told), "{}", house.log().await);
}

#[tokio::test(start_paused = true)]
async fn signing_takes_only_so_long_too() {
    let (house, spec) = house([Script::new().exit(1)]);
    house.diary.hang_when(|what| what.ends_with("b.sig"));
    let outcome = house.run(spec).await;
    assert_eq!(outcome.exit_code(), 1);
    assert_kept(&house, &outcome, &["a"], "it hangs").await;
    let told = "could be signed and kept: it took longer than 5m\n";
    assert!(house.log().await.contains(told), "{}", house.log().await);
}

#[tokio::test(start_paused = true)]
async fn of_a_job_that_passed_its_steps_what_could_be_signed_stays_and_no_proof() {
    type Fault = fn(&str) -> bool;
    let cases: [(&str, Fault, &[&str], LostReason); 5] = [
        ("a copy fails", |what| what == "blob put job-1/b", &["a"], LostReason::Collect),
        ("the seal fails", |what| what == "log seal", ALL, LostReason::LogWrite),
        ("a signature fails", |what| what.ends_with("b.sig"), &["a", "c"], LostReason::Sign),
        ("the envelope fails", |what| what.ends_with("dsse.json"), ALL, LostReason::Sign),
        ("the proof fails", |what| what.ends_with("provenance.json"), ALL, LostReason::Sign),
    ];
    for (desc, fault, names, reason) in cases {
        let (house, spec) = house([Script::new(), Script::new()]);
        house.diary.fail_when(move |what| fault(what) && !what.starts_with("blob delete"));
        let outcome = house.run(spec).await;
        assert_eq!((outcome.exit_code(), outcome.job.lost_reason), (5, Some(reason)), "{desc}");
        assert_kept(&house, &outcome, names, desc).await;
    }
    // Cancelled while it keeps them.
    let (house, spec) = house([Script::new(), Script::new()]);
    let outcome = cancelled_at_the_first_file(&house, spec, &Cancel::default(), false).await;
    assert_eq!(outcome.exit_code(), 3);
    assert_kept(&house, &outcome, &["a"], "cancelled").await;
}

#[tokio::test(start_paused = true)]
async fn of_a_job_that_keeps_files_on_success_no_proof_stays_either() {
    let (house, mut spec) = house([Script::new(), Script::new()]);
    spec.artifacts.when = CollectWhen::Success;
    house.diary.hang_when(|what| what.ends_with("/provenance.json"));
    let outcome = house.run(spec).await;
    assert_eq!(outcome.job.lost_reason, Some(LostReason::Sign));
    assert_kept(&house, &outcome, &[], "half a proof").await;
}

#[tokio::test(start_paused = true)]
async fn a_proof_of_a_job_that_others_ended_does_not_stay() {
    for (when, names) in [(CollectWhen::Always, ALL), (CollectWhen::Success, &[])] {
        let (house, mut spec) = house([Script::new(), Script::new()]);
        spec.artifacts.when = when;
        let (begun, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (tell, wait) = (begun.clone(), over.clone());
        house.diary.hang_when(move |what| {
            let here = what.ends_with("/provenance.json");
            tell.fetch_or(here, Ordering::Relaxed);
            here && !wait.load(Ordering::Relaxed)
        });
        let end = async {
            while !begun.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let change = Transition::lost(LostReason::OwnerDied, house.clock.now());
            house.jobs.transition(&job(), &change).await.unwrap();
            over.store(true, Ordering::Relaxed);
        };
        let (outcome, ()) = tokio::join!(house.run(spec), end);
        assert_eq!(outcome.job.lost_reason, Some(LostReason::OwnerDied));
        assert!(
            house.diary.written().contains(&"blob put job-1/.danube/provenance.json".to_owned())
        );
        assert_kept(&house, &outcome, names, "others ended it").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_stands_in_no_name_and_in_no_line() {
    const SECRET: &str = "hunter2-hunter2";
    let (house, mut spec) = house([Script::new().exit(1)]);
    std::fs::write(house.work_dir().join(format!("x-{SECRET}")), "x").unwrap();
    spec.secrets.push(("TOKEN".into(), SecretBytes::from(SECRET)));
    spec.artifacts.exclude = vec![format!("{SECRET}/**"), "c".into()];
    let outcome = house.run(spec).await;
    assert_kept(&house, &outcome, &["a", "b"], "a secret").await;
    let log = house.log().await;
    assert!(log.contains("x-*** has a secret in its name"), "{log}");
    let all = format!("{log}{outcome:?}{:?}", house.diary.written());
    assert!(!all.contains("hunter2"), "{all}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_dropped_while_it_collects_is_recovered_as_lost() {
    let (house, spec) = house([Script::new().exit(1)]);
    let reached = Arc::new(Notify::new());
    let tell = reached.clone();
    house.diary.hang_when(move |what| {
        let here = what == "blob put job-1/b";
        if here {
            tell.notify_one();
        }
        here
    });
    tokio::select! {
        _ = house.run(spec) => panic!("it hangs"),
        () = reached.notified() => {}
    }
    assert_eq!(house.logs.stat(&job()).await.unwrap().phase, LogPhase::Abandoned);
    let ended =
        crate::recover(&house.jobs, &house.logs, &house.blobs, &house.clock()).await.unwrap();
    assert_eq!(ended[0].lost_reason, Some(LostReason::OwnerDied));
    // What it had copied is nobody's artifact: it was not signed, and is left to the sweep.
    let left = house.artifacts().list(&job()).await.unwrap();
    let states: Vec<_> = left.iter().map(|a| (a.name.as_str(), a.state)).collect();
    assert_eq!(states, [("a", ArtifactState::Uploading)]);
    assert_eq!(ended[0].steps[0].exit_code, Some(1));
}
