//! What people type, resolved.

use danube_core::{ErrorClass, Timestamp};

use super::*;
use crate::MemoryJobs;

async fn store_with(ids: &[&str]) -> MemoryJobs {
    let store = MemoryJobs::new();
    for (second, id) in ids.iter().enumerate() {
        let created_at = Timestamp::from_second(second as i64).unwrap();
        let job = JobRecord::pending(id.parse().unwrap(), "a job", created_at);
        store.create(&job).await.unwrap();
    }
    store
}

#[tokio::test]
async fn people_type_a_whole_id_an_end_of_it_or_latest() {
    let store = store_with(&["0193-aaaa-1111", "0193-bbbb-2222", "x", "0194-cccc-1111"]).await;
    for (typed, meant) in [
        ("0193-aaaa-1111", "0193-aaaa-1111"),
        ("0193-a", "0193-aaaa-1111"),
        ("2222", "0193-bbbb-2222"),
        ("0194", "0194-cccc-1111"),
        ("x", "x"),
        ("latest", "0194-cccc-1111"),
    ] {
        assert_eq!(store.resolve(typed).await.unwrap().as_str(), meant, "{typed}");
    }
    // Through a trait object too.
    let store: Arc<dyn JobStore> = Arc::new(store);
    assert_eq!(store.resolve("latest").await.unwrap().as_str(), "0194-cccc-1111");
}

#[tokio::test]
async fn what_fits_several_jobs_is_refused_and_they_are_named() {
    let store = store_with(&["0193-aaaa", "0193-bbbb", "0193-cccc", "0193-dddd", "0193"]).await;
    assert_eq!(store.resolve("0193").await.unwrap().as_str(), "0193", "a whole id wins");
    let error = store.resolve("0193-").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "\"0193-\" fits several jobs, 0193-dddd, 0193-cccc, 0193-bbbb and others: type more of the id"
    );
    assert_eq!(error.class(), ErrorClass::Invalid);
    let Error::Ambiguous { matches, .. } = error else { panic!("{error:?}") };
    assert_eq!(matches.len(), 4);
}

#[tokio::test]
async fn what_fits_nothing_is_told_in_one_line() {
    let store = store_with(&["0193-aaaa"]).await;
    for (typed, message) in [
        ("019", "\"019\" is too short: type at least 4 characters of the job's id"),
        ("", "\"\" is too short: type at least 4 characters of the job's id"),
        ("0194", "there is no job whose id is, begins or ends with \"0194\""),
        ("../etc", "there is no job whose id is, begins or ends with \"../etc\""),
    ] {
        assert_eq!(store.resolve(typed).await.unwrap_err().to_string(), message);
    }
    let long = store.resolve(&"x".repeat(100_000)).await.unwrap_err();
    assert!(long.to_string().len() < 200, "{long}");
    assert_eq!(long.class(), ErrorClass::NotFound);
    let none = MemoryJobs::new().resolve("latest").await.unwrap_err();
    assert_eq!(
        (none.to_string().as_str(), none.class()),
        ("there is no job yet", ErrorClass::NotFound)
    );
}

#[tokio::test]
async fn a_job_called_latest_can_be_named() {
    let store = store_with(&["latest", "newer"]).await;
    assert_eq!(store.resolve("latest").await.unwrap().as_str(), "latest");
}
