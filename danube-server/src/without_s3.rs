//! What stands for the bucket of `[artifacts.s3]` in a program that was built without the feature `s3`.

use danube_artifacts::MemoryBlobs;

use crate::cli::S3Command;
use crate::config::{Bucket, Config};
use crate::failure::Failure;

const ABSENT: &str = "this danube was built without S3 (cargo feature s3)";

pub(crate) fn check(_: &Bucket) -> Result<(), String> {
    Err(ABSENT.to_owned())
}

pub(crate) async fn connect(_: &Bucket) -> Result<MemoryBlobs, Failure> {
    Err(Failure::invalid(ABSENT))
}

pub(crate) async fn command(_: Config, _: S3Command) -> Result<u8, Failure> {
    Err(Failure::invalid(ABSENT))
}
