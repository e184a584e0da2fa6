//! Laws about single records: what is kept, what is refused, steps.

use danube_core::{ByteRange, CandidateKind, ErrorClass, JobState, LostReason, Timestamp};

use super::{at, finished_step, id, job, step, step_name, to};
use crate::{
    Error, JobRecord, JobStore, MAX_NAME_BYTES, MAX_STEPS, MAX_TEXT_BYTES, MAX_WORK_DIR_BYTES,
    StepRecord,
};

fn full() -> JobRecord {
    JobRecord {
        name: "größe/'; DROP TABLE jobs; -- \0 🦀".to_owned(),
        state: JobState::Lost,
        lost_reason: Some(LostReason::LogWrite),
        message: Some("line one\nline two \"quoted\" 100%".to_owned()),
        created_at: Timestamp::from_millisecond(1_700_000_000_123).expect("a valid time"),
        started_at: Some(at(1)),
        finished_at: Some(at(2)),
        cancel_requested_at: Some(at(3)),
        retention_days: Some(u32::MAX),
        work_dir: "/a dir/with 'quotes'".to_owned(),
        log_bytes: i64::MAX as u64,
        log_truncated: true,
        log_deleted_at: Some(at(4)),
        artifacts_deleted_at: Some(at(5)),
        steps: vec![
            finished_step(0, "build"),
            StepRecord {
                command: "sh -c 'exit 3' \0 \u{1b}[31m".to_owned(),
                state: JobState::Failed,
                exit_code: Some(i32::MIN),
                signal: Some(9),
                started_at: Some(Timestamp::UNIX_EPOCH),
                finished_at: None,
                log_range: Some(ByteRange::new(10, i64::MAX as u64)),
                ..step(7, "unit tests (linux)")
            },
            step(u32::MAX, "größe"),
        ],
        ..job("Full-1.2_x")
    }
}

/// Every field comes back: the largest numbers, any text, times before 1970.
pub async fn a_record_comes_back_as_it_was_created(store: &impl JobStore) {
    let early = JobRecord {
        created_at: Timestamp::from_millisecond(-1_500).expect("a valid time"),
        retention_days: Some(0),
        ..job("early")
    };
    for record in [full(), job("plain"), early] {
        store.create(&record).await.expect("create");
        assert_eq!(store.get(&record.id).await.expect("get"), record);
    }
    let listed = store.list(&crate::JobQuery::default()).await.expect("list");
    assert_eq!(listed[0], full());
}

/// Times lose what is below a millisecond, long texts their end, and steps their wrong order.
pub async fn times_and_texts_are_cut_to_what_is_kept(store: &impl JobStore) {
    let fine = Timestamp::new(1_700_000_000, 123_456_789).expect("a valid time");
    let coarse = Timestamp::new(1_700_000_000, 123_000_000).expect("a valid time");
    let longest = "é".repeat(MAX_TEXT_BYTES / 2);
    let record = JobRecord {
        created_at: fine,
        message: Some(longest.clone() + "é"),
        steps: vec![
            StepRecord { command: longest.clone(), started_at: Some(fine), ..step(2, "second") },
            StepRecord { command: "x".repeat(1 << 20), ..step(1, "first") },
        ],
        ..job("j")
    };
    store.create(&record).await.expect("create");
    let kept = store.get(&record.id).await.expect("get");
    assert_eq!(kept.created_at, coarse);
    let message = kept.message.expect("a message");
    assert!(message.len() <= MAX_TEXT_BYTES && message.len() > MAX_TEXT_BYTES - 4);
    assert!(message.strip_suffix('…').is_some_and(|start| longest.starts_with(start)));
    assert_eq!(kept.steps[0].command, "x".repeat(MAX_TEXT_BYTES - 3) + "…");
    assert_eq!(
        (kept.steps[1].command.as_str(), kept.steps[1].started_at),
        (&*longest, Some(coarse))
    );
    let change = to(JobState::Running, 0);
    let change = crate::Transition { at: fine, ..change }.with_message("y".repeat(1 << 20));
    store.transition(&record.id, &change).await.expect("transition");
    let kept = store.get(&record.id).await.expect("get");
    assert_eq!(
        (kept.started_at, kept.message.map(|m| m.len())),
        (Some(coarse), Some(MAX_TEXT_BYTES))
    );
}

/// A second `create` of one id is a conflict, whatever it brings, and changes nothing.
pub async fn an_id_is_created_once(store: &impl JobStore) {
    store.create(&job("j")).await.expect("create");
    let other = JobRecord { name: "other".to_owned(), steps: vec![step(0, "a")], ..job("j") };
    for again in [other, job("j")] {
        let refused = store.create(&again).await.expect_err("a second create");
        assert!(matches!(&refused, Error::Conflict { job } if *job == id("j")), "{refused:?}");
        assert_eq!(refused.class(), ErrorClass::Conflict);
        assert_eq!(store.get(&id("j")).await.expect("get"), job("j"));
    }
    // Case counts.
    store.create(&job("J")).await.expect("create");
}

async fn expect_refused(store: &impl JobStore, desc: &str, record: JobRecord) {
    let refused = store.create(&record).await.expect_err(desc);
    assert!(matches!(refused, Error::Invalid { .. }), "{desc}: {refused:?}");
    let got = store.get(&record.id).await;
    assert!(matches!(got, Err(Error::NotFound { .. })), "{desc}: {got:?}");
}

/// What the reaper and the readers rely on holds from the first moment.
pub async fn a_record_that_contradicts_itself_is_refused(store: &impl JobStore) {
    let cases = [
        (
            "an end of a running job",
            JobRecord { state: JobState::Running, finished_at: Some(at(1)), ..job("j") },
        ),
        ("a verdict without an end", JobRecord { state: JobState::Succeeded, ..job("j") }),
        (
            "a loss without a reason",
            JobRecord { state: JobState::Lost, finished_at: Some(at(1)), ..job("j") },
        ),
        ("a reason without a loss", JobRecord { lost_reason: Some(LostReason::Sign), ..job("j") }),
        (
            "two steps at one position",
            JobRecord { steps: vec![step(1, "a"), step(1, "b")], ..job("j") },
        ),
        (
            "two steps of one name",
            JobRecord { steps: vec![step(1, "a"), step(2, "a")], ..job("j") },
        ),
    ];
    for (desc, record) in cases {
        expect_refused(store, desc, record).await;
    }
}

/// The bounds themselves are legal, one more is not.
pub async fn what_passes_a_bound_is_refused(store: &impl JobStore) {
    let steps =
        |count: usize| (0..count).map(|n| step(n as u32, &format!("step {n}"))).collect::<Vec<_>>();
    let range = |end| Some(ByteRange::new(0, end));
    let cases = [
        ("name", JobRecord { name: "n".repeat(MAX_NAME_BYTES + 1), ..job("j") }),
        ("work directory", JobRecord { work_dir: "w".repeat(MAX_WORK_DIR_BYTES + 1), ..job("j") }),
        ("log", JobRecord { log_bytes: 1 << 63, ..job("j") }),
        ("steps", JobRecord { steps: steps(MAX_STEPS + 1), ..job("j") }),
        (
            "range",
            JobRecord {
                steps: vec![StepRecord { log_range: range(1 << 63), ..step(0, "a") }],
                ..job("j")
            },
        ),
    ];
    for (desc, record) in cases {
        expect_refused(store, desc, record).await;
    }
    let largest = JobRecord {
        name: "n".repeat(MAX_NAME_BYTES),
        work_dir: "w".repeat(MAX_WORK_DIR_BYTES),
        steps: steps(MAX_STEPS),
        ..job("j")
    };
    store.create(&largest).await.expect("create");
    assert_eq!(store.get(&id("j")).await.expect("get"), largest);
    let too_long = to(JobState::Running, 1).with_log(u64::MAX, false);
    let refused = store.transition(&id("j"), &too_long).await.expect_err("a log too long");
    assert!(matches!(refused, Error::Invalid { .. }), "{refused:?}");
    assert_eq!(store.get(&id("j")).await.expect("get"), largest);
}

/// Every call that names a job says when there is none, and makes none.
pub async fn a_job_that_is_not_there_is_told(store: &impl JobStore) {
    store.create(&job("other")).await.expect("create");
    let no = id("nobody");
    let answers = [
        store.get(&no).await.map(|_| ()),
        store.transition(&no, &to(JobState::Running, 1)).await.map(|_| ()),
        store.put_step(&no, &step(0, "a")).await,
        store.request_cancel(&no, at(1)).await.map(|_| ()),
        store.mark_deleted(&no, CandidateKind::Log, at(1)).await,
        store.get(&no).await.map(|_| ()),
    ];
    for answer in answers {
        let error = answer.expect_err("there is no such job");
        assert!(matches!(&error, Error::NotFound { job } if *job == no), "{error:?}");
        assert_eq!(error.class(), ErrorClass::NotFound);
    }
}

/// `put_step` replaces the step of its position, whole, and touches no other.
pub async fn a_step_is_recorded_by_its_position(store: &impl JobStore) {
    let record = JobRecord { steps: vec![step(0, "a"), step(5, "b")], ..job("j") };
    store.create(&record).await.expect("create");
    store.create(&JobRecord { steps: vec![step(0, "a")], ..job("k") }).await.expect("create");
    let running = StepRecord {
        state: JobState::Running,
        started_at: Some(at(1)),
        log_range: Some(ByteRange::new(3, 9)),
        ..step(0, "a")
    };
    let renamed = StepRecord { command: "false".to_owned(), ..step(5, "new name") };
    for put in [&running, &running, &renamed, &step(3, "between"), &step(0, "a"), &running] {
        store.put_step(&id("j"), put).await.expect("put_step");
    }
    let kept = store.get(&id("j")).await.expect("get");
    assert_eq!(kept.steps, [running, step(3, "between"), renamed]);
    assert_eq!((kept.state, kept.started_at), (JobState::Pending, None));
    assert_eq!(store.get(&id("k")).await.expect("get").steps, [step(0, "a")]);
}

/// Names stay unique within a job.
pub async fn a_step_takes_no_name_of_another(store: &impl JobStore) {
    let record = JobRecord { steps: vec![step(0, "a"), step(1, "b")], ..job("j") };
    store.create(&record).await.expect("create");
    for position in [1, 2] {
        let refused =
            store.put_step(&id("j"), &step(position, "a")).await.expect_err("a name twice");
        match refused {
            Error::StepNameTaken { job, step, position } => {
                assert_eq!((job, step, position), (id("j"), step_name("a"), 0));
            }
            other => panic!("expected StepNameTaken, got {other:?}"),
        }
    }
    store.put_step(&id("j"), &step(2, "A")).await.expect("case counts");
    assert_eq!(store.get(&id("j")).await.expect("get").steps.len(), 3);
}

/// One step too many is refused, and those that are there can still change.
pub async fn steps_are_bounded(store: &impl JobStore) {
    let steps = (0..MAX_STEPS).map(|n| step(n as u32, &format!("step {n}"))).collect();
    store.create(&JobRecord { steps, ..job("j") }).await.expect("create");
    let refused = store.put_step(&id("j"), &step(u32::MAX, "x")).await.expect_err("one too many");
    assert!(matches!(refused, Error::Invalid { .. }), "{refused:?}");
    store.put_step(&id("j"), &finished_step(3, "step 3")).await.expect("a step that is there");
    let kept = store.get(&id("j")).await.expect("get");
    assert_eq!((kept.steps.len(), &kept.steps[3]), (MAX_STEPS, &finished_step(3, "step 3")));
}
