//! Clients that are not ours read what we wrote, write what we read, and follow our links.

use std::process::Command;

use danube_artifacts::{BlobKey, BlobStore, LinkOptions, PutMode, PutOptions, Tier, bytes_stream};
use danube_core::{ByteRange, Sha256Digest};
use futures_util::TryStreamExt;
use sha2::{Digest as _, Sha256};

use crate::{PART_BYTES, fresh, moto, python};

const BOTO: &str = include_str!("clients.py");

/// Runs a script of boto3 with these arguments: lines of what it printed.
fn boto(arguments: &[&str]) -> Vec<String> {
    let python = python::python("python-moto", moto::PACKAGES);
    let said = python::run(Command::new(python).args(["-c", BOTO]).args(arguments));
    said.lines().map(str::to_owned).collect()
}

fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::from_bytes(Sha256::digest(bytes).into())
}

#[tokio::test]
async fn boto3_reads_what_we_wrote_and_we_read_what_it_wrote() {
    let store = fresh().await.with_part_bytes(PART_BYTES).unwrap();
    let job = "job-1".parse().unwrap();
    let key = |named: &str| BlobKey::artifact(&job, &named.parse().unwrap());
    let mut wanted = Vec::new();
    for (key, object, len) in [
        (key("a b/ü+%.bin"), "artifacts/job-1/output/a b/ü+%.bin", 3 * PART_BYTES + 5),
        (key("small"), "artifacts/job-1/output/small", 5),
        (BlobKey::log(&job), "artifacts/job-1/logs/agent.log", 100),
        (BlobKey::records(&job), "artifacts/job-1/metadata.json", 2),
        (BlobKey::envelope(&job), "artifacts/job-1/.danube/provenance.dsse.json", 9),
    ] {
        let bytes: Vec<u8> = (0..len).map(|at| ((at * at) >> 7) as u8).collect();
        store.put(&key, bytes_stream(bytes.clone()), PutOptions::default()).await.unwrap();
        wanted.push(format!("{object}\t{len}\t{}", sha256(&bytes)));
    }
    wanted.sort();
    let (url, bucket) = (crate::server().url(), store.config().bucket.clone());
    assert_eq!(boto(&[&url, &bucket, "read"]), wanted);
    // It writes 6 MB in parts, which is no put of ours: no token, no checksum.
    boto(&[&url, &bucket, "write", "artifacts/job-1/output/theirs", "6000000"]);
    let blob = store.get(&key("theirs"), None).await.unwrap();
    assert_eq!(blob.size_bytes, 6_000_000);
    let read = blob.body.try_collect::<Vec<_>>().await.unwrap().concat();
    assert!(read.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8));
    assert_eq!(store.list(&job).await.unwrap().len(), 6);
    let taken = store.put(&key("theirs"), bytes_stream("x"), PutOptions::default()).await;
    assert!(matches!(taken, Err(danube_artifacts::Error::Exists { .. })), "{taken:?}");
}

#[tokio::test]
async fn a_link_does_what_it_says_and_nothing_else() {
    let store = fresh().await;
    let key = BlobKey::artifact(&"j".parse().unwrap(), &"a b".parse().unwrap());
    let follow = |link: &danube_artifacts::Link, body: &str| {
        let headers = serde_json::to_string(&link.headers).unwrap();
        boto(&["", "", "follow", link.method.as_str(), &link.url, &headers, body]).join("\n")
    };
    let options = LinkOptions::put().with_size_bytes(10).with_expected(sha256(b"0123456789"));
    let link = store.link(&key, &options).await.unwrap();
    let signed = link.url.split('&').find_map(|field| field.strip_prefix("X-Amz-SignedHeaders="));
    let signed = signed.unwrap();
    for header in ["content-length", "if-none-match", "x-amz-checksum-sha256"] {
        assert!(signed.contains(header), "{header} is not signed: {signed}");
    }
    assert_eq!(follow(&link, "0123456789"), "200 ");
    // Never a second time.
    assert!(follow(&link, "9876543210").starts_with("412"));
    let stat = store.stat(&key).await.unwrap();
    assert_eq!((stat.size_bytes, stat.tier), (10, Tier::Hot));

    let link = store.link(&key, &LinkOptions::get()).await.unwrap();
    assert_eq!(follow(&link, ""), "200 0123456789");
    let part = LinkOptions::get().with_range(ByteRange::new(2, 5));
    let link = store.link(&key, &part).await.unwrap();
    assert!(link.headers.iter().any(|(name, value)| name == "range" && value == "bytes=2-4"));
    assert_eq!(follow(&link, ""), "206 234");
    assert!(!format!("{link:?}").contains("Signature"), "{link:?}");

    let replace = PutOptions::default().with_mode(PutMode::Replace);
    store.put(&key, bytes_stream("new"), replace).await.unwrap();
}
