//! What a bucket is to do by itself: lifecycle rules and CORS, planned first and then applied.

use std::fmt;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::operation::head_bucket::HeadBucketError;
use aws_sdk_s3::types::{
    AbortIncompleteMultipartUpload, BucketLifecycleConfiguration, BucketVersioningStatus,
    CorsConfiguration, CorsRule, ExpirationStatus, LifecycleExpiration, LifecycleRule,
    LifecycleRuleFilter, NoncurrentVersionExpiration, Transition,
    TransitionDefaultMinimumObjectSize, TransitionStorageClass,
};
use danube_core::ErrorClass;
use serde::Serialize;

use super::{DEFAULT_PREFIX, S3Blobs};
use crate::Error;

#[cfg(test)]
mod tests;

/// The least days before Standard-IA that S3 takes, and between two classes.
const LEAST_DAYS: u32 = 30;
/// A hundred years; S3 takes more, and nobody means it.
const MOST_DAYS: u32 = 36_500;
/// The most origins of pages; S3 takes a hundred rules, and ours is one.
const MOST_ORIGINS: usize = 50;
/// What is left of an id of 255 characters.
const MOST_PREFIX_BYTES: usize = 200;
/// How long a browser may remember what it may do: an hour.
const CORS_MAX_AGE_SECONDS: i32 = 3600;
/// What a page must be able to send with a link: what a part or a whole object is signed with.
const CORS_HEADERS: &[&str] = &[
    "content-type",
    "content-length",
    "content-md5",
    "if-none-match",
    "range",
    "x-amz-checksum-*",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-content-sha256",
    "x-amz-storage-class",
    "x-amz-meta-*",
];
/// What a page must be able to read of an answer: the ETag of a part, and what a range was.
const CORS_EXPOSED: &[&str] =
    &["ETag", "Content-Range", "Content-Length", "x-amz-checksum-sha256", "x-amz-request-id"];

/// What a bucket is to do by itself with what lies below the prefix. Days count in whole days since an object was
/// made (or, where it says so, since something else); 0 leaves that rule out, and removes it where it was set up before.
///
/// Expiring (`expire_days`) is off by default: S3 knows neither what is kept for ever nor how long an artifact's owner
/// wants it, and a filter cannot say "all but". What is to be deleted the reaper knows, and deletes. Whoever switches it
/// on keeps nothing longer in this bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BucketRules {
    /// `TransitionToIA`: to Standard-IA after 30 days. S3 takes no fewer.
    pub ia_days: u32,
    /// `TransitionToGlacier`: to Glacier Flexible Retrieval after 90 days, where reading takes a restore.
    pub glacier_days: u32,
    /// `ExpireOldArtifacts`: everything is deleted after so many days, whoever wants it. Off by default.
    pub expire_days: u32,
    /// `ExpireDeletedArtifacts`: of a bucket with versioning, what was deleted or replaced goes for good 30 days later.
    pub deleted_days: u32,
    /// `AbortIncompleteMultipartUpload`: parts of uploads that were begun 7 days ago and never completed.
    pub abort_upload_days: u32,
    /// Whose pages may use links directly: `https://ci.example.com`; no origins, no CORS. At most 50.
    pub cors_origins: Vec<String>,
}

impl Default for BucketRules {
    fn default() -> Self {
        Self {
            ia_days: 30,
            glacier_days: 90,
            expire_days: 0,
            deleted_days: 30,
            abort_upload_days: 7,
            cors_origins: Vec::new(),
        }
    }
}

impl BucketRules {
    /// With these days to Standard-IA.
    #[must_use]
    pub fn with_ia_days(mut self, days: u32) -> Self {
        self.ia_days = days;
        self
    }

    /// With these days to Glacier.
    #[must_use]
    pub fn with_glacier_days(mut self, days: u32) -> Self {
        self.glacier_days = days;
        self
    }

    /// With these days to the end of everything.
    #[must_use]
    pub fn with_expire_days(mut self, days: u32) -> Self {
        self.expire_days = days;
        self
    }

    /// With these days for what was deleted.
    #[must_use]
    pub fn with_deleted_days(mut self, days: u32) -> Self {
        self.deleted_days = days;
        self
    }

    /// With these days for uploads.
    #[must_use]
    pub fn with_abort_upload_days(mut self, days: u32) -> Self {
        self.abort_upload_days = days;
        self
    }

    /// With the pages of these origins.
    #[must_use]
    pub fn with_cors_origins(mut self, origins: Vec<String>) -> Self {
        self.cors_origins = origins;
        self
    }

    /// What S3 would refuse, or what would not do what it says.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], which names the setting.
    pub fn validate(&self) -> Result<(), Error> {
        let days = [
            ("ia_days", self.ia_days),
            ("glacier_days", self.glacier_days),
            ("expire_days", self.expire_days),
            ("deleted_days", self.deleted_days),
            ("abort_upload_days", self.abort_upload_days),
        ];
        let refused =
            |what, value: u32, rule: String| Err(Error::invalid(what, &value.to_string(), rule));
        if let Some((what, value)) = days.into_iter().find(|(_, value)| *value > MOST_DAYS) {
            return refused(what, value, format!("is more than {MOST_DAYS} days"));
        }
        if (1..LEAST_DAYS).contains(&self.ia_days) {
            return refused("ia_days", self.ia_days, "is fewer than the 30 days of S3".to_owned());
        }
        let (ia, glacier, expire) = (self.ia_days, self.glacier_days, self.expire_days);
        if ia > 0 && glacier > 0 && glacier < ia + LEAST_DAYS {
            let rule = format!("must be at least 30 days after ia_days ({ia})");
            return refused("glacier_days", glacier, rule);
        }
        if expire > 0 && expire <= ia.max(glacier) {
            let rule = format!("must be more than ia_days ({ia}) and glacier_days ({glacier})");
            return refused("expire_days", expire, rule);
        }
        if self.cors_origins.len() > MOST_ORIGINS {
            let count = self.cors_origins.len().to_string();
            return Err(Error::invalid("cors_origins", &count, "are more than 50 origins"));
        }
        match self.cors_origins.iter().find(|origin| !is_origin(origin)) {
            Some(origin) => Err(Error::invalid(
                "cors_origins",
                origin,
                "is no origin: scheme and host like https://ci.example.com, without a path",
            )),
            None => Ok(()),
        }
    }

    /// The lifecycle rules that this means below a prefix.
    fn lifecycle(&self, prefix: &str) -> Vec<LifecycleRule> {
        let rule = |name: &str| {
            let filter = LifecycleRuleFilter::builder().prefix(prefix).build();
            LifecycleRule::builder()
                .id(rule_id(name, prefix))
                .filter(filter)
                .status(ExpirationStatus::Enabled)
        };
        let days = |days: u32| i32::try_from(days).unwrap_or(i32::MAX);
        let to = |after, class: TransitionStorageClass| {
            Transition::builder().days(days(after)).storage_class(class).build()
        };
        let expiration = |after| LifecycleExpiration::builder().days(days(after)).build();
        // A delete marker without versions behind it is listed, and is nothing.
        let markers = || LifecycleExpiration::builder().expired_object_delete_marker(true).build();
        let versions =
            |after| NoncurrentVersionExpiration::builder().noncurrent_days(days(after)).build();
        let parts = |after| {
            AbortIncompleteMultipartUpload::builder().days_after_initiation(days(after)).build()
        };
        let [ia, glacier, expire, deleted, abort] = LIFECYCLE_NAMES;
        [
            (
                self.ia_days,
                rule(ia).transitions(to(self.ia_days, TransitionStorageClass::StandardIa)),
            ),
            (
                self.glacier_days,
                rule(glacier).transitions(to(self.glacier_days, TransitionStorageClass::Glacier)),
            ),
            (self.expire_days, rule(expire).expiration(expiration(self.expire_days))),
            (
                self.deleted_days,
                rule(deleted)
                    .expiration(markers())
                    .noncurrent_version_expiration(versions(self.deleted_days)),
            ),
            (
                self.abort_upload_days,
                rule(abort).abort_incomplete_multipart_upload(parts(self.abort_upload_days)),
            ),
        ]
        .into_iter()
        .filter(|(days, _)| *days > 0)
        .map(|(_, rule)| rule.build().expect("a rule with a status is complete"))
        .collect()
    }

    fn cors(&self, prefix: &str) -> Option<CorsRule> {
        if self.cors_origins.is_empty() {
            return None;
        }
        let owned = |texts: &[&str]| Some(texts.iter().map(ToString::to_string).collect());
        let rule = CorsRule::builder()
            .id(rule_id(CORS_NAME, prefix))
            .set_allowed_origins(Some(self.cors_origins.clone()))
            .set_allowed_methods(owned(&["GET", "HEAD", "PUT"]))
            .set_allowed_headers(owned(CORS_HEADERS))
            .set_expose_headers(owned(CORS_EXPOSED))
            .max_age_seconds(CORS_MAX_AGE_SECONDS);
        Some(rule.build().expect("a rule with origins and methods is complete"))
    }
}

const LIFECYCLE_NAMES: [&str; 5] = [
    "TransitionToIA",
    "TransitionToGlacier",
    "ExpireOldArtifacts",
    "ExpireDeletedArtifacts",
    "AbortIncompleteMultipartUpload",
];
const CORS_NAME: &str = "DanubeLinks";

/// Ids are unique in a bucket, and several prefixes may share one.
fn rule_id(name: &str, prefix: &str) -> String {
    if prefix == DEFAULT_PREFIX { name.to_owned() } else { format!("{name}:{prefix}") }
}

fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| {
        let is_part = |b: u8| b.is_ascii_alphanumeric() || b".-:[]*".contains(&b);
        !host.is_empty() && host.len() <= 253 && host.bytes().all(is_part) && {
            host.matches('*').count() <= 1
        }
    })
}

/// Of what kind a rule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleKind {
    /// It moves, deletes or aborts after a time.
    Lifecycle,
    /// It lets pages use links.
    Cors,
}

/// What becomes of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleAction {
    /// It is missing.
    Add,
    /// It says something else.
    Change,
    /// It is not wanted any more.
    Remove,
    /// It is as it should be.
    Keep,
    /// It is somebody else's, and stays.
    Leave,
}

impl RuleAction {
    /// Its name, as it is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Change => "change",
            Self::Remove => "remove",
            Self::Keep => "keep",
            Self::Leave => "leave",
        }
    }
}

impl fmt::Display for RuleAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for RuleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lifecycle => "lifecycle",
            Self::Cors => "cors",
        })
    }
}

/// One rule of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PlannedRule {
    /// Of what kind it is.
    pub kind: RuleKind,
    /// Its id in the bucket; empty for somebody else's that has none.
    pub id: String,
    /// What becomes of it.
    pub action: RuleAction,
    /// What it does, for people.
    pub what: String,
}

/// What is there, and what would change: the only thing that [`BucketSetup::apply`] does.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SetupPlan {
    /// Every rule of the bucket, and those that it is to have.
    pub rules: Vec<PlannedRule>,
    /// What nobody changes but the bucket's owner, as sentences.
    pub warnings: Vec<String>,
    seen: Seen,
    lifecycle: Vec<LifecycleRule>,
    cors: Vec<CorsRule>,
}

impl SetupPlan {
    /// Whether the bucket is as it should be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.changes(RuleKind::Lifecycle) && !self.changes(RuleKind::Cors)
    }

    fn changes(&self, kind: RuleKind) -> bool {
        let stays = |rule: &PlannedRule| {
            rule.kind != kind || matches!(rule.action, RuleAction::Keep | RuleAction::Leave)
        };
        !self.rules.iter().all(stays)
    }
}

/// Whether a bucket keeps what was deleted or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Versions {
    Kept,
    #[default]
    NotKept,
    /// Nobody may know, or no server can tell: it is advice, and stops nothing.
    Untold,
}

/// The configuration of a bucket as it was read.
#[derive(Debug, Clone, PartialEq, Default)]
struct Seen {
    lifecycle: Vec<LifecycleRule>,
    /// It belongs to the whole configuration: what is written without it resets it for everybody's rules.
    smallest: Option<TransitionDefaultMinimumObjectSize>,
    cors: Vec<CorsRule>,
    versions: Versions,
}

/// Sets the bucket of a store up: it must exist, and its owner's other rules stay as they are.
///
/// S3 replaces a bucket's rules as a whole and without a condition. [`apply`](Self::apply) reads them again right before
/// it writes and refuses when they changed since the plan; what somebody writes in that moment it cannot see.
#[derive(Debug, Clone)]
pub struct BucketSetup {
    blobs: S3Blobs,
    rules: BucketRules,
}

impl BucketSetup {
    /// Of the bucket and the prefix of this store.
    ///
    /// # Errors
    ///
    /// Those of [`BucketRules::validate`].
    pub fn new(blobs: &S3Blobs, rules: BucketRules) -> Result<Self, Error> {
        rules.validate()?;
        let config = blobs.config();
        if config.prefix.len() > MOST_PREFIX_BYTES {
            let rule = "is longer than the 200 bytes that fit into the id of a rule";
            return Err(Error::invalid("S3 prefix", &config.prefix, rule));
        }
        Ok(Self { blobs: blobs.clone(), rules })
    }

    /// Reads what is there and decides what would change. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`]: of class `NotFound` when there is no such bucket, `Conflict` when one of our ids is in use
    /// below another prefix, `Unsupported` when the endpoint has no such rules and some are wanted.
    pub async fn plan(&self) -> Result<SetupPlan, Error> {
        self.decide(self.read().await?)
    }

    /// Does what the plan says, and nothing where it is empty. Doing it again finds nothing left to do.
    ///
    /// # Errors
    ///
    /// Those of [`plan`](Self::plan); [`Error::Backend`] of class `Conflict` when the rules are not any more what the
    /// plan was made for. When the second of two writes fails the first stands: plan and apply again.
    pub async fn apply(&self, plan: &SetupPlan) -> Result<(), Error> {
        if plan.is_empty() {
            return Ok(());
        }
        if self.read().await? != plan.seen {
            let why = "its rules changed since they were looked at: plan again";
            return Err(self.failed(ErrorClass::Conflict, why.to_owned()));
        }
        if plan.changes(RuleKind::Lifecycle) {
            self.write_lifecycle(plan).await?;
        }
        if plan.changes(RuleKind::Cors) {
            self.write_cors(plan).await?;
        }
        Ok(())
    }

    async fn write_lifecycle(&self, plan: &SetupPlan) -> Result<(), Error> {
        if plan.lifecycle.is_empty() {
            let sent =
                self.blobs.client().delete_bucket_lifecycle().bucket(self.bucket()).send().await;
            return sent.map(drop).map_err(|e| self.refused(e));
        }
        let configuration = BucketLifecycleConfiguration::builder()
            .set_rules(Some(plan.lifecycle.clone()))
            .build()
            .expect("a configuration with rules is complete");
        let sent = self
            .blobs
            .client()
            .put_bucket_lifecycle_configuration()
            .bucket(self.bucket())
            .lifecycle_configuration(configuration)
            .set_transition_default_minimum_object_size(plan.seen.smallest.clone())
            .send()
            .await;
        sent.map(drop).map_err(|e| self.refused(e))
    }

    async fn write_cors(&self, plan: &SetupPlan) -> Result<(), Error> {
        if plan.cors.is_empty() {
            let sent = self.blobs.client().delete_bucket_cors().bucket(self.bucket()).send().await;
            return sent.map(drop).map_err(|e| self.refused(e));
        }
        let configuration = CorsConfiguration::builder()
            .set_cors_rules(Some(plan.cors.clone()))
            .build()
            .expect("a configuration with rules is complete");
        let put = self.blobs.client().put_bucket_cors().bucket(self.bucket());
        let sent = put.cors_configuration(configuration).send().await;
        sent.map(drop).map_err(|e| self.refused(e))
    }

    async fn read(&self) -> Result<Seen, Error> {
        let (client, bucket, rules) = (self.blobs.client(), self.bucket(), &self.rules);
        client.head_bucket().bucket(bucket).send().await.map_err(|e| self.no_bucket(e))?;
        let mut seen = Seen::default();
        match client.get_bucket_lifecycle_configuration().bucket(bucket).send().await {
            Ok(found) => {
                seen.smallest = found.transition_default_minimum_object_size;
                seen.lifecycle = found.rules.unwrap_or_default().into_iter().map(plain).collect();
            }
            Err(e) if e.code() == Some("NoSuchLifecycleConfiguration") => {}
            Err(e) if is_unknown(&e) && rules.lifecycle(self.prefix()).is_empty() => {}
            Err(e) => return Err(self.refused(e)),
        }
        match client.get_bucket_cors().bucket(bucket).send().await {
            Ok(found) => seen.cors = found.cors_rules.unwrap_or_default(),
            Err(e) if e.code() == Some("NoSuchCORSConfiguration") => {}
            Err(e) if is_unknown(&e) && rules.cors_origins.is_empty() => {}
            Err(e) => return Err(self.refused(e)),
        }
        seen.versions = match client.get_bucket_versioning().bucket(bucket).send().await {
            Ok(found) if found.status == Some(BucketVersioningStatus::Enabled) => Versions::Kept,
            Ok(_) => Versions::NotKept,
            Err(_) => Versions::Untold,
        };
        Ok(seen)
    }

    fn decide(&self, seen: Seen) -> Result<SetupPlan, Error> {
        let ours = LIFECYCLE_NAMES.map(|name| rule_id(name, self.prefix()));
        let mut rules = Vec::new();
        let lifecycle = merge(
            RuleKind::Lifecycle,
            &seen.lifecycle,
            self.rules.lifecycle(self.prefix()),
            &ours,
            &mut rules,
        );
        let foreign = seen.lifecycle.iter().find(|rule| {
            rule.id().is_some_and(|id| ours.iter().any(|our| our == id))
                && prefix_of(rule) != Some(self.prefix())
        });
        if let Some(rule) = foreign {
            let id = rule.id().unwrap_or_default();
            let prefix = prefix_of(rule).unwrap_or_default();
            let ours = self.prefix();
            let why = format!(
                "its rule {id} is for {prefix:?} and not for {ours:?}: give that one another id"
            );
            return Err(self.failed(ErrorClass::Conflict, why));
        }
        let cors = merge(
            RuleKind::Cors,
            &seen.cors,
            self.rules.cors(self.prefix()).into_iter().collect(),
            &[rule_id(CORS_NAME, self.prefix())],
            &mut rules,
        );
        let mut warnings = Vec::new();
        let bucket = self.bucket();
        match seen.versions {
            Versions::Kept => {}
            Versions::NotKept => warnings.push(format!(
                "versioning of {bucket} is off: what is deleted or replaced by mistake cannot be brought back"
            )),
            Versions::Untold => warnings.push(format!(
                "whether versioning of {bucket} is on cannot be read: without it nothing deleted can be brought back"
            )),
        }
        Ok(SetupPlan { rules, warnings, seen, lifecycle, cors })
    }

    fn bucket(&self) -> &str {
        &self.blobs.config().bucket
    }

    fn prefix(&self) -> &str {
        &self.blobs.config().prefix
    }

    fn failed(&self, class: ErrorClass, why: String) -> Error {
        let (backend, operation) = (self.blobs.to_string(), "be set up".to_owned());
        Error::Backend { backend, operation, class, source: why.into() }
    }

    /// There is no bucket, or it cannot be reached.
    fn no_bucket(&self, error: SdkError<HeadBucketError, HttpResponse>) -> Error {
        let bucket = self.bucket();
        let answer = error.raw_response();
        match answer.map(|answer| answer.status().as_u16()) {
            Some(404) => {
                let why = format!("there is no bucket {bucket}: it must exist before it is set up");
                self.failed(ErrorClass::NotFound, why)
            }
            Some(301 | 307) => {
                let region = answer.and_then(|answer| answer.headers().get("x-amz-bucket-region"));
                let region = region.unwrap_or("another region");
                let why = format!("bucket {bucket} is in {region}: say so in the configuration");
                self.failed(ErrorClass::Invalid, why)
            }
            _ => self.refused(error),
        }
    }

    fn refused<E>(&self, error: SdkError<E, HttpResponse>) -> Error
    where
        E: ProvideErrorMetadata + RequestId + std::error::Error + 'static,
    {
        self.blobs.failed("be set up".to_owned(), self.blobs.fault(error))
    }
}

/// A rule of either kind.
trait Rule: Clone + PartialEq {
    fn id(&self) -> Option<&str>;
    fn what(&self) -> String;
}

impl Rule for LifecycleRule {
    fn id(&self) -> Option<&str> {
        self.id()
    }

    fn what(&self) -> String {
        let mut told: Vec<String> = Vec::new();
        for transition in self.transitions() {
            let class = transition.storage_class().map_or("another class", |class| class.as_str());
            told.push(match transition.days() {
                Some(days) => format!("to {class} after {days} days"),
                None => format!("to {class} on a date"),
            });
        }
        if let Some(expiration) = self.expiration() {
            match (expiration.days(), expiration.expired_object_delete_marker()) {
                (Some(days), _) => told.push(format!("deleted after {days} days")),
                (None, Some(true)) => told.push("delete markers removed".to_owned()),
                (None, _) => told.push("deleted on a date".to_owned()),
            }
        }
        if let Some(days) = self.noncurrent_version_expiration().and_then(|e| e.noncurrent_days()) {
            told.push(format!("old versions deleted after {days} days"));
        }
        if !self.noncurrent_version_transitions().is_empty() {
            told.push("old versions moved".to_owned());
        }
        let abort = self.abort_incomplete_multipart_upload();
        if let Some(days) = abort.and_then(|abort| abort.days_after_initiation()) {
            told.push(format!("incomplete uploads aborted after {days} days"));
        }
        if self.status() != &ExpirationStatus::Enabled {
            told.push("disabled".to_owned());
        }
        told.join(", ")
    }
}

impl Rule for CorsRule {
    fn id(&self) -> Option<&str> {
        self.id()
    }

    fn what(&self) -> String {
        format!("{} from {}", self.allowed_methods().join(", "), self.allowed_origins().join(", "))
    }
}

/// What is there with ours in their places: every other rule stays where and what it was.
fn merge<R: Rule>(
    kind: RuleKind,
    seen: &[R],
    wanted: Vec<R>,
    ours: &[String],
    told: &mut Vec<PlannedRule>,
) -> Vec<R> {
    let mut tell = |rule: &R, action| {
        let id = rule.id().unwrap_or_default().to_owned();
        told.push(PlannedRule { kind, id, action, what: rule.what() });
    };
    let mut merged = Vec::new();
    for rule in seen {
        if !rule.id().is_some_and(|id| ours.iter().any(|our| our == id)) {
            tell(rule, RuleAction::Leave);
            merged.push(rule.clone());
            continue;
        }
        match wanted.iter().find(|wanted| wanted.id() == rule.id()) {
            Some(wanted) => {
                let action = if wanted == rule { RuleAction::Keep } else { RuleAction::Change };
                tell(wanted, action);
                merged.push(wanted.clone());
            }
            None => tell(rule, RuleAction::Remove),
        }
    }
    for rule in wanted {
        if !seen.iter().any(|seen| seen.id() == rule.id()) {
            tell(&rule, RuleAction::Add);
            merged.push(rule);
        }
    }
    merged
}

/// The prefix of a rule, wherever it stands in it.
fn prefix_of(rule: &LifecycleRule) -> Option<&str> {
    let filter = rule.filter();
    let in_filter = filter
        .and_then(|filter| filter.prefix().or_else(|| filter.and().and_then(|and| and.prefix())));
    #[expect(deprecated, reason = "rules that others wrote long ago have it there")]
    in_filter.or_else(|| rule.prefix())
}

/// The same rule without the empty lists that some endpoints write.
fn plain(mut rule: LifecycleRule) -> LifecycleRule {
    rule.transitions = rule.transitions.filter(|list| !list.is_empty());
    rule.noncurrent_version_transitions =
        rule.noncurrent_version_transitions.filter(|list| !list.is_empty());
    rule
}

/// Whether an endpoint does not know such a thing at all.
fn is_unknown(error: &impl ProvideErrorMetadata) -> bool {
    matches!(error.code(), Some("NotImplemented" | "MethodNotAllowed" | "XNotImplemented"))
}
