//! The laws of [`JobStore`](crate::JobStore) as tests, for anybody's backend (feature `conformance`).
//!
//! Stamp them with [`job_store_conformance!`](crate::job_store_conformance). Each law expects a store
//! that holds nothing.

mod audit;
mod ends;
mod lists;
mod records;
mod together;

pub use audit::*;
pub use ends::*;
pub use lists::*;
pub use records::*;
pub use together::*;

use danube_core::{ByteRange, JobId, JobState, LostReason, StepName, Timestamp};

use crate::{JobRecord, StepRecord, Transition};

/// Makes a module with one test for each law of [`JobStore`](crate::JobStore), and each of them a second
/// time through `Arc<dyn JobStore>`.
///
/// The expression makes a pair: an empty store, and whatever must live as long as it (a temporary
/// directory). It may use `.await`. The crate that calls this needs `tokio` with `macros` and `rt` among
/// its dev-dependencies.
///
/// ```
/// # use danube_store::MemoryJobs;
/// danube_store::job_store_conformance!(memory, (MemoryJobs::new(), ()));
/// ```
#[macro_export]
macro_rules! job_store_conformance {
    ($module:ident, $fixture:expr) => {
        $crate::job_store_conformance!(@laws $module, $fixture,
            a_record_comes_back_as_it_was_created,
            times_and_texts_are_cut_to_what_is_kept,
            an_id_is_created_once,
            a_record_that_contradicts_itself_is_refused,
            what_passes_a_bound_is_refused,
            a_job_that_is_not_there_is_told,
            a_step_is_recorded_by_its_position,
            a_step_takes_no_name_of_another,
            steps_are_bounded,
            the_list_is_newest_first,
            pages_name_every_job_once,
            limits_are_bounds,
            unfinished_jobs_are_listed_apart,
            the_tally_counts_every_job_once,
            ids_are_matched_at_both_ends_byte_for_byte,
            states_go_forward_and_set_their_times,
            a_change_keeps_what_it_does_not_name,
            what_ended_stays_as_it_is,
            a_loss_has_a_reason_and_nothing_else_has,
            the_end_of_a_job_ends_its_steps,
            success_needs_the_end_of_every_step,
            the_first_request_to_cancel_stays,
            the_first_mark_of_deletion_stays,
            what_has_not_ended_is_not_marked_as_deleted,
            of_many_creators_one_wins,
            of_many_that_end_a_job_one_wins,
            steps_recorded_at_once_are_all_kept,
            readers_see_a_job_at_one_moment,
            random_operations_agree_with_memory,
        );
    };
    (@laws $module:ident, $fixture:expr, $($law:ident,)+) => {
        mod $module {
            use super::*;

            $(#[tokio::test]
            async fn $law() {
                let (store, _guard) = $fixture;
                $crate::conformance::$law(&store).await;
            })+

            mod as_dyn {
                use super::*;

                $(#[tokio::test]
                async fn $law() {
                    let (store, _guard) = $fixture;
                    let store: std::sync::Arc<dyn $crate::JobStore> = std::sync::Arc::new(store);
                    $crate::conformance::$law(&store).await;
                })+
            }
        }
    };
}

fn id(id: &str) -> JobId {
    id.parse().expect("a valid job id")
}

fn step_name(name: &str) -> StepName {
    name.parse().expect("a valid step name")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).expect("a valid time")
}

fn job(named: &str) -> JobRecord {
    JobRecord::pending(id(named), "a job", at(0))
}

fn step(position: u32, named: &str) -> StepRecord {
    StepRecord::pending(position, step_name(named), "true")
}

fn finished_step(position: u32, named: &str) -> StepRecord {
    StepRecord {
        state: JobState::Succeeded,
        exit_code: Some(0),
        started_at: Some(at(1)),
        finished_at: Some(at(2)),
        log_range: Some(ByteRange::new(0, 10)),
        ..step(position, named)
    }
}

/// A change to any state, with a reason where one is due.
fn to(state: JobState, second: i64) -> Transition {
    match state {
        JobState::Lost => Transition::lost(LostReason::OwnerDied, at(second)),
        other => Transition::new(other, at(second)),
    }
}

fn terminal() -> impl Iterator<Item = JobState> {
    JobState::ALL.iter().copied().filter(|state| state.is_terminal())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_law_is_stamped() {
        let macro_text =
            concat!(include_str!("conformance.rs"), include_str!("conformance/audit.rs"));
        let laws = [
            include_str!("conformance/audit.rs"),
            include_str!("conformance/records.rs"),
            include_str!("conformance/lists.rs"),
            include_str!("conformance/ends.rs"),
            include_str!("conformance/together.rs"),
        ];
        let lines = laws.iter().flat_map(|text| text.lines());
        let names: Vec<_> = lines
            .filter_map(|line| line.strip_prefix("pub async fn "))
            .filter_map(|law| law.split('(').next())
            .collect();
        assert_eq!(names.len(), 34);
        for name in names {
            assert!(
                macro_text.contains(&format!("            {name},\n")),
                "{name} is not stamped"
            );
        }
    }
}
