//! The laws of the contracts as tests, for anybody's backend (feature `conformance`).
//!
//! A macro stamps one test for every law: directly, and through `Arc<dyn …>`. The expression makes a
//! fresh, empty backend for each test; it may use `.await`, and gives the backend together with
//! whatever must live as long as it does, for instance its temporary directory.
//!
//! ```
//! # #[cfg(test)]
//! danube_artifacts::artifact_index_conformance!(memory, (danube_artifacts::MemoryIndex::new(), ()));
//! ```
//!
//! A server that somebody else wrote may be unable to keep a law. [`blob_store_conformance!`](crate::blob_store_conformance)
//! and [`upload_conformance!`](crate::upload_conformance) take such laws after `except`, each with words of the failure.
//! The test of that law then passes as long as the law fails with these words, and fails when the law holds: an
//! exception goes when its reason goes. An exception that is no law does not compile.
//!
//! ```
//! # #[cfg(test)]
//! danube_artifacts::upload_conformance!(
//!     that_server,
//!     (danube_artifacts::MemoryBlobs::new(), ()),
//!     except [
//!         // It answers 501 to ListMultipartUploads.
//!         a_sweep_forgets_old_uploads: "NotImplemented",
//!     ]
//! );
//! ```

pub mod blobs;
pub mod index;
pub mod signing;
pub mod uploads;

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

/// How often a law that is excepted may hold by chance before the exception counts as needless: a race is not lost
/// every time.
const ATTEMPTS: u32 = 20;

/// Runs one law on a runtime of its own.
///
/// # Panics
///
/// When the law does not hold.
pub fn run<T>(law: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built")
        .block_on(law)
}

/// Runs the law `name` on a fresh backend; `fixture` gives it together with what keeps the backend. If the law is
/// among `excepted`, it must fail with the words that stand there, in one of 20 attempts.
///
/// # Panics
///
/// When the law does not hold and is not excepted, or is excepted and holds, or fails in another way.
#[doc(hidden)]
pub fn judge<L, K>(name: &str, excepted: &[(&str, &str)], fixture: impl AsyncFn() -> (L, K))
where
    L: Future<Output = ()>,
{
    let Some((_, words)) = excepted.iter().find(|(law, _)| *law == name) else {
        return run(async {
            let (law, _kept) = fixture().await;
            law.await;
        });
    };
    for _ in 0..ATTEMPTS {
        let failed = run(async {
            let (law, _kept) = fixture().await;
            AssertUnwindSafe(law).catch_unwind().await
        });
        if let Err(panic) = failed {
            let said = words_of(&*panic);
            assert!(said.contains(words), "{name} fails in another way than {words:?}: {said}");
            return;
        }
    }
    panic!("{name} holds: strike it from the exceptions");
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let fixed = || panic.downcast_ref::<&str>().copied();
    panic.downcast_ref::<String>().map(String::as_str).or_else(fixed).unwrap_or_default()
}

/// The laws of [`ArtifactIndex`](crate::ArtifactIndex), one test each, for the backend that the
/// expression makes: `artifact_index_conformance!(name_of_the_module, (backend, what_keeps_it))`.
#[macro_export]
macro_rules! artifact_index_conformance {
    ($module:ident, $fixture:expr) => {
        $crate::stamp_artifact_laws!(
            $module,
            index,
            ArtifactIndex,
            $fixture,
            except [],
            [
                what_was_put_is_got_back,
                a_put_replaces_the_record_of_that_name_only,
                what_is_not_there_is_told,
                a_list_is_one_job_in_the_order_of_names,
                paging_names_every_record_once,
                all_goes_by_job_and_name,
                a_change_changes_what_it_says,
                a_change_for_one_artifact_does_not_touch_another,
                a_record_is_found_by_its_id_as_long_as_it_has_it,
                an_id_is_of_one_artifact,
                changes_at_once_all_count,
                several_are_changed_together_or_not_at_all,
                removing_twice_is_as_good_as_once,
                records_beyond_their_bounds_are_refused,
                names_are_compared_as_bytes,
                random_operations_agree_with_a_map,
            ]
        );
    };
}

/// The laws of [`BlobStore`](crate::BlobStore), one test each, for the backend that the expression
/// makes: `blob_store_conformance!(name_of_the_module, (backend, what_keeps_it))`.
///
/// With `, except [law: "words of its failure", …]` for what this backend cannot keep; see
/// [`conformance`](crate::conformance).
#[macro_export]
macro_rules! blob_store_conformance {
    ($module:ident, $fixture:expr $(, except [$($broken:ident: $words:literal),* $(,)?])? $(,)?) => {
        $crate::stamp_artifact_laws!(
            $module,
            blobs,
            BlobStore,
            $fixture,
            except [$($($broken: $words),*)?],
            [
                what_was_put_is_got_back_with_its_digest,
                the_cut_of_the_body_does_not_matter,
                create_new_refuses_what_exists_and_leaves_it,
                replace_swaps_whole,
                a_digest_that_was_announced_wrongly_leaves_nothing,
                a_size_that_was_announced_wrongly_leaves_nothing,
                equal_bytes_stay_independent,
                what_is_deferred_is_there_and_can_be_synced,
                a_sweep_touches_no_blob,
                a_body_over_its_limit_leaves_nothing,
                a_body_that_fails_leaves_nothing,
                a_body_that_fails_anywhere_changes_nothing,
                a_put_dropped_before_its_body_ends_leaves_nothing,
                what_is_not_there_is_told,
                a_range_is_what_lies_in_it,
                a_blob_knows_its_size_and_time,
                a_list_is_one_job_by_key,
                jobs_page_by_id_and_have_blobs,
                deleting_twice_is_as_good_as_once,
                a_reader_keeps_the_version_it_opened,
                of_many_creators_one_wins,
                replacers_never_mix,
                names_of_every_kind_are_kept_apart,
                metadata_is_kept_apart_from_artifacts,
                a_blob_stays_what_it_is_in_every_tier,
                a_backend_without_tiers_or_links_says_so,
                random_operations_agree_with_a_map,
            ]
        );
    };
}

/// The laws of [`UploadSessions`](crate::UploadSessions), one test each, for a backend that is a
/// [`BlobStore`](crate::BlobStore), too: `upload_conformance!(name_of_the_module, (backend,
/// what_keeps_it))`.
///
/// With `, except [law: "words of its failure", …]` for what this backend cannot keep; see
/// [`conformance`](crate::conformance).
#[macro_export]
macro_rules! upload_conformance {
    ($module:ident, $fixture:expr $(, except [$($broken:ident: $words:literal),* $(,)?])? $(,)?) => {
        async fn $module() -> (impl $crate::BlobStore + $crate::UploadSessions, impl Sized) {
            $fixture
        }

        $crate::upload_conformance!(@laws $module, except [$($($broken: $words),*)?], [
            parts_in_any_order_become_one_blob,
            a_part_that_is_sent_again_replaces,
            what_is_missing_is_named,
            what_was_announced_is_checked,
            modes_hold_for_uploads,
            an_aborted_upload_is_gone,
            a_sweep_forgets_old_uploads,
        ]);
    };
    (
        @laws $module:ident,
        except [$($broken:ident: $words:literal),*],
        [$($law:ident),+ $(,)?]
    ) => {
        mod $module {
            $crate::stamp_artifact_laws!(@excepted uploads, [$($broken: $words),*]);

            $(
                #[test]
                fn $law() {
                    $crate::conformance::judge(stringify!($law), EXCEPTED, async || {
                        let (backend, guard) = super::$module().await;
                        ($crate::conformance::uploads::$law(backend), guard)
                    });
                }
            )+

            mod through_arc {
                $(
                    #[test]
                    fn $law() {
                        $crate::conformance::judge(stringify!($law), super::EXCEPTED, async || {
                            let (backend, guard) = super::super::$module().await;
                            let backend = ::std::sync::Arc::new(backend);
                            ($crate::conformance::uploads::$law(backend), guard)
                        });
                    }
                )+
            }
        }
    };
}

/// The laws of [`Signer`](crate::Signer) and [`Verifier`](crate::Verifier) together, one test each:
/// the expression makes `(signer, verifier)`, a new key each time, and the verifier trusts it.
#[macro_export]
macro_rules! signing_conformance {
    ($module:ident, $fixture:expr) => {
        $crate::stamp_artifact_laws!(
            $module,
            signing,
            Signer,
            $fixture,
            with_guard,
            [
                a_signature_holds_and_names_its_key,
                any_message_can_be_signed,
                no_other_message_holds,
                no_flipped_bit_holds,
                no_other_length_holds,
                no_other_key_holds,
                a_key_id_that_is_not_trusted_is_told,
            ]
        );
    };
}

/// What the macros of the suites share; not for direct use.
#[doc(hidden)]
#[macro_export]
macro_rules! stamp_artifact_laws {
    // The second part of the fixture belongs to the law, and the first is a trait object or not.
    ($module:ident, $suite:ident, $trait:ident, $fixture:expr, with_guard, [$($law:ident),+ $(,)?]) => {
        async fn $module() -> (impl $crate::Signer, impl $crate::Verifier) {
            $fixture
        }

        mod $module {
            $(
                #[test]
                fn $law() {
                    $crate::conformance::run(async {
                        let (mine, other) = (super::$module().await, super::$module().await);
                        $crate::conformance::$suite::$law(mine, other).await;
                    });
                }
            )+

            mod through_arc_dyn {
                use ::std::sync::Arc;

                async fn fixture() -> (Arc<dyn $crate::Signer>, Arc<dyn $crate::Verifier>) {
                    let (signer, verifier) = super::super::$module().await;
                    (Arc::new(signer), Arc::new(verifier))
                }

                $(
                    #[test]
                    fn $law() {
                        $crate::conformance::run(async {
                            let (mine, other) = (fixture().await, fixture().await);
                            $crate::conformance::$suite::$law(mine, other).await;
                        });
                    }
                )+
            }
        }
    };
    (
        $module:ident,
        $suite:ident,
        $trait:ident,
        $fixture:expr,
        except [$($broken:ident: $words:literal),*],
        [$($law:ident),+ $(,)?]
    ) => {
        // A function beside the module of its name: the expression sees what stands around the macro.
        async fn $module() -> (impl $crate::$trait, impl Sized) {
            $fixture
        }

        mod $module {
            $crate::stamp_artifact_laws!(@excepted $suite, [$($broken: $words),*]);

            $(
                #[test]
                fn $law() {
                    $crate::conformance::judge(stringify!($law), EXCEPTED, async || {
                        let (backend, guard) = super::$module().await;
                        ($crate::conformance::$suite::$law(backend), guard)
                    });
                }
            )+

            mod through_arc_dyn {
                $(
                    #[test]
                    fn $law() {
                        $crate::conformance::judge(stringify!($law), super::EXCEPTED, async || {
                            let (backend, guard) = super::super::$module().await;
                            let backend: ::std::sync::Arc<dyn $crate::$trait> =
                                ::std::sync::Arc::new(backend);
                            ($crate::conformance::$suite::$law(backend), guard)
                        });
                    }
                )+
            }
        }
    };
    (@excepted $suite:ident, [$($broken:ident: $words:literal),*]) => {
        // Whoever excepts what is no law is told by the compiler.
        $(
            #[allow(unused_imports)]
            use $crate::conformance::$suite::$broken as _;
        )*

        const EXCEPTED: &[(&str, &str)] = &[$((stringify!($broken), $words)),*];
    };
}

/// A small generator of numbers (splitmix64): the same ones each time, so that a failure repeats.
#[derive(Debug)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::judge;

    /// What `judge` says to a law that fails with "501" when it is run for the `fails_at`-th time.
    fn said(excepted: &[(&str, &str)], fails_at: u32) -> Option<String> {
        let runs = AtomicU32::new(0);
        let law = async || {
            let run = runs.fetch_add(1, Ordering::Relaxed);
            (async move { assert_ne!(run, fails_at, "501") }, ())
        };
        let judged = catch_unwind(std::panic::AssertUnwindSafe(|| judge("law", excepted, law)));
        judged.err().map(|panic| super::words_of(&*panic).to_owned())
    }

    #[test]
    fn an_exception_is_good_as_long_as_the_law_fails_with_its_words() {
        assert_eq!(said(&[], 1), None);
        assert!(said(&[], 0).unwrap().contains("501"));
        assert!(said(&[("other", "501")], 0).unwrap().contains("501"));
        assert_eq!(said(&[("other", ""), ("law", "501")], 0), None);
        // A race that is lost now and then.
        assert_eq!(said(&[("law", "501")], super::ATTEMPTS - 1), None);
        assert!(said(&[("law", "501")], super::ATTEMPTS).unwrap().contains("law holds"));
        assert!(said(&[("law", "404")], 0).unwrap().contains("in another way than \"404\""));
    }
}
