//! `[artifacts.s3]`: the bucket that artifacts are kept in.

use std::time::Duration;

use serde::Deserialize;

use super::DAY;
use crate::failure::Failure;

/// As it is written. It is a bucket where `bucket` is named.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Bucket {
    pub(crate) bucket: String,
    pub(crate) region: String,
    pub(crate) endpoint: String,
    pub(crate) path_style: Option<bool>,
    pub(crate) prefix: String,
    pub(crate) ia_days: u32,
    pub(crate) glacier_days: u32,
    pub(crate) expire_days: u32,
    pub(crate) deleted_days: u32,
    pub(crate) abort_upload_days: u32,
}

impl Default for Bucket {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            region: String::new(),
            endpoint: String::new(),
            path_style: None,
            prefix: "artifacts/".to_owned(),
            ia_days: 30,
            glacier_days: 90,
            expire_days: 0,
            deleted_days: 30,
            abort_upload_days: 7,
        }
    }
}

impl Bucket {
    /// What is wrong with it, beginning with the setting.
    pub(super) fn check(&self, keep_artifacts: Duration) -> Result<(), String> {
        if self.bucket.is_empty() {
            // Without the name nothing else of it says anything: it was forgotten.
            let rest = Self { path_style: None, ..self.clone() };
            return match rest == Self::default() {
                true => Ok(()),
                false => Err("artifacts.s3.bucket must be named".to_owned()),
            };
        }
        crate::s3::check(self).map_err(|why| format!("artifacts.s3: {why}"))?;
        match self.longest() {
            Some(longest) if longest < keep_artifacts => Err(format!(
                "artifacts.s3.expire_days ({}) must be at least retention.artifacts_days: the bucket would delete sooner",
                self.expire_days
            )),
            _ => Ok(()),
        }
    }

    /// How long anything can be kept at most.
    fn longest(&self) -> Option<Duration> {
        (self.expire_days > 0).then(|| DAY * self.expire_days)
    }

    /// Refuses to promise what the bucket does not keep.
    pub(crate) fn check_kept(
        &self,
        keep_for: Option<Duration>,
        for_ever: bool,
    ) -> Result<(), Failure> {
        match self.longest() {
            Some(longest) if for_ever || keep_for.is_some_and(|wanted| wanted > longest) => {
                Err(Failure::invalid(format!(
                    "bucket {} deletes everything after {} days: set artifacts.s3.expire_days to 0 to keep it longer",
                    self.bucket, self.expire_days
                )))
            }
            _ => Ok(()),
        }
    }
}
