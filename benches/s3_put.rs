//! Putting 256 MB into a bucket: `S3Blobs` against `aws s3 cp` of the same file, on the same server (moto, which
//! the benchmark starts) in the same run. Run with `cargo xtask bench --peers --bench s3_put`, which installs the
//! command line of AWS; without it there are our figures alone. A round is one put of each; the ratio is that of the
//! quickest ones. What `aws` needs to start, which is Python's start, is told apart.
#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]
#![allow(dead_code, reason = "the fixtures belong to several programs")]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use danube_artifacts::s3::{S3Blobs, S3Config};
use danube_artifacts::{BlobKey, BlobStore, PutMode, PutOptions, file_stream};

#[path = "../danube-artifacts/tests/support/moto.rs"]
mod moto;
#[path = "../danube-artifacts/tests/support/python.rs"]
mod python;

const FILE_BYTES: usize = 256_000_000;
const ROUNDS: usize = 5;
const BUCKET: &str = "bench";

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn timed(run: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed()
}

fn client(url: &str) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .credentials_provider(Credentials::new("danube", "danube-secret", None, None, "bench"))
        .region(Region::new("us-east-1"))
        .endpoint_url(url)
        .force_path_style(true)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    Client::from_conf(config.build())
}

fn aws(url: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new("aws");
    command.args(["--endpoint-url", url, "--region", "us-east-1"]).args(arguments);
    command.env("AWS_ACCESS_KEY_ID", "danube").env("AWS_SECRET_ACCESS_KEY", "danube-secret");
    command.stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn write_file(path: &Path) {
    let mut file = File::create(path).unwrap();
    let chunk: Vec<u8> = (0..1_000_000_u32).map(|at| (at.wrapping_mul(at) >> 9) as u8).collect();
    for _ in 0..FILE_BYTES / chunk.len() {
        file.write_all(&chunk).unwrap();
    }
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    write_file(&path);
    let server = moto::Moto::start();
    let url = server.url();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let client = client(&url);
    runtime.block_on(client.create_bucket().bucket(BUCKET).send()).unwrap();
    let store = S3Blobs::with_client(S3Config::new(BUCKET).with_endpoint(&url), client);
    let key = BlobKey::artifact(&"bench".parse().unwrap(), &"file".parse().unwrap());
    let put = || {
        let replace = PutOptions::default().with_mode(PutMode::Replace);
        let body = file_stream(File::open(&path).unwrap());
        let stored = runtime.block_on(store.put(&key, body, replace)).unwrap();
        assert_eq!(stored.size_bytes, FILE_BYTES as u64);
    };
    let has_aws = aws(&url, &["s3", "ls"]);
    let target = format!("s3://{BUCKET}/aws/file");
    let (mut ours, mut theirs, mut start) = (Duration::MAX, Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        ours = ours.min(timed(put));
        if has_aws {
            let copy = ["s3", "cp", "--only-show-errors", path.to_str().unwrap(), &target];
            theirs = theirs.min(timed(|| assert!(aws(&url, &copy))));
            start = start.min(timed(|| assert!(aws(&url, &["s3", "ls"]))));
        }
    }
    let speed = |took: Duration| FILE_BYTES as f64 / took.as_secs_f64() / 1e6;
    println!("danube      {:>6.0} MB/s", speed(ours));
    if has_aws {
        println!("aws s3 cp   {:>6.0} MB/s, of which it takes {start:.1?} to start", speed(theirs));
        let working = theirs.saturating_sub(start);
        println!(
            "danube / aws {:.2}; without its start {:.2}",
            ratio(theirs, ours),
            ratio(working, ours)
        );
    }
}

fn ratio(theirs: Duration, ours: Duration) -> f64 {
    theirs.as_secs_f64() / ours.as_secs_f64()
}
