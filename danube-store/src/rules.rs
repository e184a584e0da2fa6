//! How records may change: decided here, without I/O, for every backend alike.

use std::collections::BTreeSet;

use danube_core::{ByteRange, CandidateKind, JobState, Timestamp};

use crate::{
    Error, JobRecord, MAX_NAME_BYTES, MAX_STEPS, MAX_TEXT_BYTES, MAX_WORK_DIR_BYTES, StepRecord,
    Transition,
};

/// The record as it is kept: checked, its times and texts cut, its steps in order.
pub(crate) fn admit(job: &JobRecord) -> Result<JobRecord, Error> {
    let invalid = |rule: String| Err(Error::Invalid { job: job.id.clone(), rule });
    if job.state.is_terminal() != job.finished_at.is_some() {
        return invalid(format!(
            "a job that is {} must {} a time at which it finished",
            job.state,
            if job.state.is_terminal() { "have" } else { "not have" }
        ));
    }
    if (job.state == JobState::Lost) != job.lost_reason.is_some() {
        return invalid("a job has a reason of loss exactly when it is lost".to_owned());
    }
    if job.name.len() > MAX_NAME_BYTES {
        return invalid(format!("its name is longer than {MAX_NAME_BYTES} bytes"));
    }
    if job.work_dir.len() > MAX_WORK_DIR_BYTES {
        return invalid(format!("its work directory is longer than {MAX_WORK_DIR_BYTES} bytes"));
    }
    if job.steps.len() > MAX_STEPS {
        return invalid(format!("it has more than {MAX_STEPS} steps"));
    }
    check_number(job, job.log_bytes)?;
    let mut kept = JobRecord {
        message: job.message.as_deref().map(cut),
        created_at: to_millisecond(job.created_at),
        started_at: job.started_at.map(to_millisecond),
        finished_at: job.finished_at.map(to_millisecond),
        cancel_requested_at: job.cancel_requested_at.map(to_millisecond),
        log_deleted_at: job.log_deleted_at.map(to_millisecond),
        artifacts_deleted_at: job.artifacts_deleted_at.map(to_millisecond),
        steps: job.steps.iter().map(|step| admit_step(job, step)).collect::<Result<_, _>>()?,
        ..job.clone()
    };
    kept.steps.sort_by_key(|step| step.position);
    if let Some(twice) = kept.steps.windows(2).find(|two| two[0].position == two[1].position) {
        return invalid(format!("it has two steps at position {}", twice[0].position));
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = kept.steps.iter().find(|step| !names.insert(&step.name)) {
        return invalid(format!("it has two steps called {}", twice.name));
    }
    Ok(kept)
}

/// Moves the job on; gives the state it left.
pub(crate) fn transition(job: &mut JobRecord, change: &Transition) -> Result<JobState, Error> {
    let from = job.state;
    refuse_finished(job)?;
    if (change.to == JobState::Lost) != change.lost_reason.is_some() {
        let rule = "a change has a reason of loss exactly when the job becomes lost".to_owned();
        return Err(Error::Invalid { job: job.id.clone(), rule });
    }
    if rank(change.to) < rank(from) {
        return Err(Error::Backwards { job: job.id.clone(), from, to: change.to });
    }
    if let Some(log) = change.log {
        check_number(job, log.bytes)?;
    }
    // A verdict that nobody gave is no success.
    let open = job.steps.iter().find(|step| !step.state.is_terminal());
    if let (JobState::Succeeded, Some(step)) = (change.to, open) {
        return Err(Error::StepUnfinished {
            job: job.id.clone(),
            step: step.name.clone(),
            state: step.state,
        });
    }

    let at = to_millisecond(change.at);
    job.state = change.to;
    job.lost_reason = change.lost_reason;
    if let Some(message) = &change.message {
        job.message = Some(cut(message));
    }
    if let Some(log) = change.log {
        job.log_bytes = log.bytes;
        job.log_truncated = log.truncated;
    }
    if change.to.is_terminal() {
        job.finished_at = Some(at);
        for step in job.steps.iter_mut().filter(|step| !step.state.is_terminal()) {
            if step.started_at.is_some() {
                step.finished_at = Some(at);
            }
            step.state = change.to;
        }
    } else if change.to != JobState::Pending && job.started_at.is_none() {
        job.started_at = Some(at);
    }
    Ok(from)
}

/// Puts the step into the job; gives it as it is kept.
pub(crate) fn put_step<'a>(
    job: &'a mut JobRecord,
    step: &StepRecord,
) -> Result<&'a StepRecord, Error> {
    refuse_finished(job)?;
    let namesake = job.steps.iter().find(|s| s.name == step.name && s.position != step.position);
    if let Some(taken) = namesake {
        return Err(Error::StepNameTaken {
            job: job.id.clone(),
            step: taken.name.clone(),
            position: taken.position,
        });
    }
    let kept = admit_step(job, step)?;
    match job.steps.binary_search_by_key(&step.position, |s| s.position) {
        Ok(at) => {
            job.steps[at] = kept;
            Ok(&job.steps[at])
        }
        Err(_) if job.steps.len() >= MAX_STEPS => Err(Error::Invalid {
            job: job.id.clone(),
            rule: format!("it has {MAX_STEPS} steps, the most one job may have"),
        }),
        Err(at) => {
            job.steps.insert(at, kept);
            Ok(&job.steps[at])
        }
    }
}

/// Notes the request unless the job has ended or there was one; gives the job's state.
pub(crate) fn request_cancel(job: &mut JobRecord, at: Timestamp) -> JobState {
    if !job.state.is_terminal() && job.cancel_requested_at.is_none() {
        job.cancel_requested_at = Some(to_millisecond(at));
    }
    job.state
}

/// Notes that data of the job is gone.
pub(crate) fn mark_deleted(
    job: &mut JobRecord,
    what: CandidateKind,
    at: Timestamp,
) -> Result<(), Error> {
    if !job.state.is_terminal() {
        return Err(Error::Unfinished { job: job.id.clone(), state: job.state });
    }
    let mark = match what {
        CandidateKind::Log => &mut job.log_deleted_at,
        CandidateKind::Artifact => &mut job.artifacts_deleted_at,
        other => return Err(Error::Unsupported { what: other.to_string() }),
    };
    mark.get_or_insert(to_millisecond(at));
    Ok(())
}

/// The time as it is kept: in whole milliseconds.
pub(crate) fn to_millisecond(time: Timestamp) -> Timestamp {
    // Every time's whole milliseconds are a time; were they not, the time itself is nearest.
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}

fn refuse_finished(job: &JobRecord) -> Result<(), Error> {
    if job.state.is_terminal() {
        return Err(Error::Finished { job: job.id.clone(), state: job.state });
    }
    Ok(())
}

fn rank(state: JobState) -> u8 {
    match state {
        JobState::Pending => 0,
        JobState::Starting => 1,
        JobState::Running => 2,
        _ => 3,
    }
}

fn admit_step(job: &JobRecord, step: &StepRecord) -> Result<StepRecord, Error> {
    let ByteRange { start, end } = step.log_range.unwrap_or_default();
    check_number(job, start.max(end))?;
    Ok(StepRecord {
        command: cut(&step.command),
        started_at: step.started_at.map(to_millisecond),
        finished_at: step.finished_at.map(to_millisecond),
        ..step.clone()
    })
}

fn check_number(job: &JobRecord, number: u64) -> Result<(), Error> {
    // Databases have signed integers of 64 bits; no log is longer.
    if i64::try_from(number).is_err() {
        let rule = format!("{number} is more bytes than a log can have");
        return Err(Error::Invalid { job: job.id.clone(), rule });
    }
    Ok(())
}

fn cut(text: &str) -> String {
    if text.len() <= MAX_TEXT_BYTES {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(MAX_TEXT_BYTES - '…'.len_utf8());
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use danube_core::LostReason;
    use proptest::prelude::*;

    use super::*;

    fn any_state() -> impl Strategy<Value = JobState> {
        prop::sample::select(JobState::ALL)
    }

    fn any_transition() -> impl Strategy<Value = Transition> {
        let reason = prop::option::of(prop::sample::select(LostReason::ALL));
        (any_state(), reason, prop::option::of(".{0,8}"), -5_000_i64..5_000).prop_map(
            |(to, lost_reason, message, at)| {
                let at = Timestamp::from_millisecond(at).unwrap();
                Transition { to, lost_reason, message, at, log: None }
            },
        )
    }

    fn any_step() -> impl Strategy<Value = StepRecord> {
        (0_u32..4, "[abc]", any_state(), any::<bool>()).prop_map(
            |(position, name, state, began)| {
                let started_at = began.then_some(Timestamp::UNIX_EPOCH);
                let pending = StepRecord::pending(position, name.parse().unwrap(), "true");
                StepRecord { state, started_at, ..pending }
            },
        )
    }

    proptest! {
        #[test]
        fn no_sequence_of_changes_makes_a_record_that_could_not_be_created(
            changes in prop::collection::vec((any_transition(), any_step(), any::<bool>()), 0..20)
        ) {
            let id = "j".parse().unwrap();
            let mut job = JobRecord::pending(id, "a job", Timestamp::UNIX_EPOCH);
            for (change, step, is_step) in changes {
                let before = job.clone();
                let refused = if is_step {
                    put_step(&mut job, &step).is_err()
                } else {
                    transition(&mut job, &change).is_err()
                };
                if refused || before.state.is_terminal() {
                    prop_assert!(refused);
                    prop_assert_eq!(&job, &before);
                }
                prop_assert_eq!(&admit(&job).unwrap(), &job);
                prop_assert!(rank(job.state) >= rank(before.state));
                if job.state.is_terminal() {
                    prop_assert!(job.steps.iter().all(|step| step.state.is_terminal()));
                }
                if before.started_at.is_some() {
                    prop_assert_eq!(job.started_at, before.started_at);
                }
            }
        }

        #[test]
        fn a_cut_text_is_a_beginning_within_the_bound(
            text in "[a-zé🦀]{4000,9000}", extra in 0_usize..4
        ) {
            let text = "x".repeat(extra) + &text;
            let kept = cut(&text);
            prop_assert!(kept.len() <= MAX_TEXT_BYTES);
            if text.len() <= MAX_TEXT_BYTES {
                prop_assert_eq!(kept, text);
            } else {
                prop_assert!(text.starts_with(kept.strip_suffix('…').unwrap()));
                prop_assert!(kept.len() > MAX_TEXT_BYTES - 4);
            }
        }

        #[test]
        fn a_time_is_cut_once(second in -377_705_000_000_i64..253_402_000_000, nano in 0..1_000_000_000) {
            if let Ok(time) = Timestamp::new(second, nano) {
                let kept = to_millisecond(time);
                prop_assert_eq!(to_millisecond(kept), kept);
                prop_assert_eq!(kept.as_millisecond(), time.as_millisecond());
            }
        }
    }

    #[test]
    fn a_record_is_read_back_from_its_json() {
        let step = StepRecord {
            log_range: Some(ByteRange::new(1, 2)),
            ..StepRecord::pending(0, "build".parse().unwrap(), "cargo build")
        };
        let mut job = JobRecord::pending("j".parse().unwrap(), "nightly", Timestamp::UNIX_EPOCH);
        job.steps = vec![step];
        let lost = Transition::lost(LostReason::OwnerDied, Timestamp::UNIX_EPOCH);
        transition(&mut job, &lost).unwrap();
        let json = serde_json::to_string(&job).unwrap();
        assert_eq!(serde_json::from_str::<JobRecord>(&json).unwrap(), job);
        for part in [
            "\"state\":\"lost\"",
            "\"lost_reason\":\"owner_died\"",
            "\"created_at\":\"1970-01-01T00:00:00Z\"",
            "\"log_range\":{\"start\":1,\"end\":2}",
        ] {
            assert!(json.contains(part), "{json}");
        }
    }
}
