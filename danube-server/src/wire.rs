//! What goes over the wire, and out of `--output json`: the same bodies.
//!
//! The conversions name every field of what they are made from, so that a new field there does not
//! build before somebody has decided about it here.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use danube_artifacts::{ArtifactId, ArtifactKind, ArtifactRecord, ArtifactState};
use danube_core::{
    ArtifactName, AuditEvent, ByteRange, Candidate, CandidateKind, JobId, JobState, LostReason,
    Sha256Digest, StepName, SweepError, Timestamp,
};
use danube_engine::Outcome;
use danube_logs::LogPhase;
use danube_logs::search::{self, Found, Position};
use danube_logs::views::{Entries, Group, GroupKind, Groups, LogEntry};
use danube_reaper::{Plan, Report};
use danube_secrets::{SecretKey, SecretOwner};
use danube_store::{AuditRecord, JobRecord, StepRecord};
use serde::Serialize;

use crate::failure::Failure;

/// A list of jobs, newest first.
#[derive(Debug, Serialize)]
pub(crate) struct Jobs {
    pub(crate) jobs: Vec<Job>,
}

impl Jobs {
    pub(crate) fn from_records(records: Vec<JobRecord>) -> Self {
        Self { jobs: records.into_iter().map(Job::from).collect() }
    }
}

/// One job.
#[derive(Debug, Serialize)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    pub(crate) name: String,
    pub(crate) state: JobState,
    pub(crate) lost_reason: Option<LostReason>,
    pub(crate) message: Option<String>,
    pub(crate) created_at: Timestamp,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) cancel_requested_at: Option<Timestamp>,
    pub(crate) retention_days: Option<u32>,
    pub(crate) work_dir: String,
    pub(crate) log_bytes: u64,
    pub(crate) log_truncated: bool,
    pub(crate) log_deleted_at: Option<Timestamp>,
    pub(crate) artifacts_deleted_at: Option<Timestamp>,
    pub(crate) steps: Vec<Step>,
}

impl From<JobRecord> for Job {
    fn from(record: JobRecord) -> Self {
        let JobRecord {
            id,
            name,
            state,
            lost_reason,
            message,
            created_at,
            started_at,
            finished_at,
            cancel_requested_at,
            retention_days,
            work_dir,
            log_bytes,
            log_truncated,
            log_deleted_at,
            artifacts_deleted_at,
            steps,
        } = record;
        Self {
            id,
            name,
            state,
            lost_reason,
            message,
            created_at,
            started_at,
            finished_at,
            cancel_requested_at,
            retention_days,
            work_dir,
            log_bytes,
            log_truncated,
            log_deleted_at,
            artifacts_deleted_at,
            steps: steps.into_iter().map(Step::from).collect(),
        }
    }
}

/// One step of a job.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    pub(crate) name: StepName,
    pub(crate) position: u32,
    pub(crate) command: String,
    pub(crate) state: JobState,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    /// The bytes of the job's log that are the step's: `{"start", "end"}`, half-open.
    pub(crate) log_range: Option<ByteRange>,
}

impl From<StepRecord> for Step {
    fn from(record: StepRecord) -> Self {
        let StepRecord {
            name,
            position,
            command,
            state,
            exit_code,
            signal,
            started_at,
            finished_at,
            log_range,
        } = record;
        Self {
            name,
            position,
            command,
            state,
            exit_code,
            signal,
            started_at,
            finished_at,
            log_range,
        }
    }
}

/// What was put by a link.
#[derive(Debug, Serialize)]
pub(crate) struct Stored {
    pub(crate) size_bytes: u64,
    pub(crate) sha256: Sha256Digest,
}

impl From<danube_artifacts::Stored> for Stored {
    fn from(stored: danube_artifacts::Stored) -> Self {
        let danube_artifacts::Stored { size_bytes, digest } = stored;
        Self { size_bytes, sha256: digest }
    }
}

/// A request that carries its own permission.
#[derive(Serialize)]
pub(crate) struct Link {
    pub(crate) method: &'static str,
    pub(crate) url: String,
    /// The headers that the request must have.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) expires_at: Timestamp,
}

impl From<danube_artifacts::Link> for Link {
    fn from(link: danube_artifacts::Link) -> Self {
        let danube_artifacts::Link { method, url, headers, expires_at } = link;
        Self { method: method.as_str(), url, headers, expires_at }
    }
}

/// The artifacts of a job, by name.
#[derive(Debug, Serialize)]
pub(crate) struct Artifacts {
    pub(crate) artifacts: Vec<Artifact>,
}

impl Artifacts {
    pub(crate) fn from_records(records: Vec<ArtifactRecord>) -> Self {
        Self { artifacts: records.into_iter().map(Artifact::from).collect() }
    }
}

/// One artifact.
#[derive(Debug, Serialize)]
pub(crate) struct Artifact {
    /// Its own id: what replaces it has another.
    pub(crate) id: ArtifactId,
    pub(crate) job: JobId,
    pub(crate) name: ArtifactName,
    pub(crate) size_bytes: u64,
    pub(crate) sha256: Sha256Digest,
    pub(crate) content_type: String,
    /// What sort of thing it is: code, document, image, data, log, other.
    pub(crate) r#type: ArtifactKind,
    pub(crate) state: ArtifactState,
    pub(crate) created_at: Timestamp,
    pub(crate) archived_at: Option<Timestamp>,
    /// When its own time is over; null where the configured time applies, or it is kept for ever.
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) keep_for_seconds: Option<u64>,
    pub(crate) keep_forever: bool,
    pub(crate) tags: BTreeMap<String, String>,
}

impl From<ArtifactRecord> for Artifact {
    fn from(record: ArtifactRecord) -> Self {
        let expires_at = record.expires_at();
        let ArtifactRecord {
            id,
            job,
            name,
            size_bytes,
            digest,
            content_type,
            kind,
            state,
            created_at,
            archived_at,
            keep_for,
            keep_forever,
            tags,
        } = record;
        Self {
            id,
            job,
            name,
            size_bytes,
            sha256: digest,
            content_type,
            r#type: kind,
            state,
            created_at,
            archived_at,
            expires_at,
            keep_for_seconds: keep_for.map(|duration| duration.as_secs()),
            keep_forever,
            tags,
        }
    }
}

/// Lines of a log, one by one: what CTS-Lite calls a logs response, and where the next ones begin.
#[derive(Debug, Serialize)]
pub(crate) struct LogEntries {
    pub(crate) run_id: JobId,
    pub(crate) logs: Vec<LogEntry>,
    pub(crate) has_more: bool,
    pub(crate) next: u64,
}

impl LogEntries {
    pub(crate) fn new(run_id: JobId, entries: Entries) -> Self {
        let Entries { entries, has_more, next } = entries;
        Self { run_id, logs: entries, has_more, next }
    }
}

/// The groups that a job marked in its log.
#[derive(Debug, Serialize)]
pub(crate) struct LogGroups {
    groups: Vec<LogGroup>,
    /// How many more there are.
    omitted: u64,
}

#[derive(Debug, Serialize)]
struct LogGroup {
    name: String,
    kind: GroupKind,
    step: Option<String>,
    depth: usize,
    first_line: u64,
    last_line: u64,
    from: u64,
    to: u64,
    expanded: bool,
    ended: bool,
}

impl From<Groups> for LogGroups {
    fn from(found: Groups) -> Self {
        let Groups { groups, omitted } = found;
        Self { groups: groups.into_iter().map(LogGroup::from).collect(), omitted }
    }
}

impl From<Group> for LogGroup {
    fn from(group: Group) -> Self {
        let Group { name, kind, step, depth, first_line, last_line, range, expanded, ended } =
            group;
        let ByteRange { start: from, end: to } = range;
        Self { name, kind, step, depth, first_line, last_line, from, to, expanded, ended }
    }
}

/// What a search found.
#[derive(Debug, Serialize)]
pub(crate) struct Search {
    pub(crate) lines: Vec<FoundLine>,
    pub(crate) matching_lines: u64,
    /// Where the first match is that is not among the lines.
    pub(crate) more: Option<Position>,
    /// Up to where the log was searched.
    pub(crate) end: Position,
    /// Whether the log may still grow.
    pub(crate) open: bool,
}

impl From<Found> for Search {
    fn from(found: Found) -> Self {
        let Found { lines, matching_lines, more, end, phase } = found;
        let lines = lines.into_iter().map(FoundLine::from).collect();
        Self { lines, matching_lines, more, end, open: phase != LogPhase::Sealed }
    }
}

/// A line that a search returns: its text, or base64 where it is not UTF-8; offsets are those in the log.
#[derive(Debug, Serialize)]
pub(crate) struct FoundLine {
    line: u64,
    from: u64,
    to: u64,
    #[serde(rename = "match")]
    is_match: bool,
    /// Where it matches: from, to.
    spans: Vec<(u64, u64)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl From<search::FoundLine> for FoundLine {
    fn from(found: search::FoundLine) -> Self {
        let search::FoundLine { number, range, bytes, is_match, spans } = found;
        let (text, base64) = match String::from_utf8(bytes.into()) {
            Ok(text) => (Some(text), None),
            Err(e) => (None, Some(STANDARD.encode(e.as_bytes()))),
        };
        let spans = spans.into_iter().map(|span| (span.start, span.end)).collect();
        Self { line: number, from: range.start, to: range.end, is_match, spans, text, base64 }
    }
}

/// That the server answers.
#[derive(Debug, Serialize)]
pub(crate) struct Health {
    pub(crate) status: &'static str,
    pub(crate) version: &'static str,
}

/// An error (RFC 9457). `type` is `about:blank`: the status says what kind it is, `code` which one.
#[derive(Debug, Serialize)]
pub(crate) struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'a str,
}

impl<'a> Problem<'a> {
    pub(crate) fn new(
        status: u16,
        reason: Option<&'static str>,
        code: &'a str,
        detail: &'a str,
    ) -> Self {
        Self { r#type: "about:blank", title: reason.unwrap_or("Error"), status, detail, code }
    }

    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and strings serialise")
    }
}

/// How a run ended: what `danube run --output json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Ran {
    pub(crate) job: Job,
    pub(crate) artifacts: Vec<Artifact>,
    /// The SHA-256 of the sealed log.
    pub(crate) log_sha256: Option<Sha256Digest>,
}

impl Ran {
    pub(crate) fn from_outcome(outcome: &Outcome) -> Self {
        let Outcome { job, artifacts, log_digest, .. } = outcome;
        Self {
            job: job.clone().into(),
            artifacts: artifacts.iter().cloned().map(Artifact::from).collect(),
            log_sha256: *log_digest,
        }
    }
}

/// What the reaper did, or would do.
#[derive(Debug, Serialize)]
pub(crate) struct Reaped {
    pub(crate) reaped: Vec<Deleted>,
    /// What could not be deleted, and is a candidate again the next time.
    pub(crate) failed: Vec<NotDeleted>,
    /// What could not say what it keeps; nothing of it was deleted.
    pub(crate) unlisted: Vec<Unlisted>,
    pub(crate) kept: usize,
    /// Bytes really given back to the disk; 0 in a dry run.
    pub(crate) bytes_freed: u64,
}

/// Something that was deleted, or would be.
#[derive(Debug, Serialize)]
pub(crate) struct Deleted {
    pub(crate) kind: CandidateKind,
    pub(crate) id: String,
    pub(crate) job: JobId,
    pub(crate) bytes: u64,
}

/// Something that was to be deleted and is still there.
#[derive(Debug, Serialize)]
pub(crate) struct NotDeleted {
    pub(crate) kind: CandidateKind,
    pub(crate) id: String,
    pub(crate) job: JobId,
    pub(crate) error: String,
}

/// Something that keeps data and could not be asked about it.
#[derive(Debug, Serialize)]
pub(crate) struct Unlisted {
    pub(crate) what: String,
    pub(crate) error: String,
}

impl Unlisted {
    fn all(unlisted: &[(String, SweepError)]) -> Vec<Self> {
        let told = |(what, error): &(String, SweepError)| Self {
            what: what.clone(),
            error: Failure::of(error.class(), error).to_string(),
        };
        unlisted.iter().map(told).collect()
    }
}

impl Reaped {
    /// What a plan says.
    pub(crate) fn planned(plan: &Plan) -> Self {
        Self {
            reaped: plan.reap.iter().map(Deleted::from).collect(),
            failed: Vec::new(),
            unlisted: Unlisted::all(&plan.unlisted),
            kept: plan.keep.len(),
            bytes_freed: 0,
        }
    }

    /// What became of it.
    pub(crate) fn done(report: &Report) -> Self {
        let failed = report.failed.iter().map(|(candidate, error)| {
            let Deleted { kind, id, job, bytes: _ } = candidate.into();
            NotDeleted { kind, id, job, error: Failure::of(error.class(), error).to_string() }
        });
        Self {
            reaped: report.reaped.iter().map(|(candidate, _)| candidate.into()).collect(),
            failed: failed.collect(),
            unlisted: Unlisted::all(&report.unlisted),
            kept: report.kept,
            bytes_freed: report.bytes_freed,
        }
    }
}

impl From<&Candidate> for Deleted {
    fn from(candidate: &Candidate) -> Self {
        let Candidate {
            kind,
            id,
            owner,
            bytes,
            shared: _,
            finished_at: _,
            keep_for: _,
            pins: _,
            version: _,
        } = candidate;
        Self { kind: *kind, id: id.clone(), job: owner.clone(), bytes: *bytes }
    }
}

/// The names of stored secrets, never a value.
#[derive(Debug, Serialize)]
pub(crate) struct Secrets {
    pub(crate) secrets: Vec<Secret>,
}

/// One name.
#[derive(Debug, Serialize)]
pub(crate) struct Secret {
    pub(crate) owner: String,
    pub(crate) key: String,
}

impl Secret {
    pub(crate) fn new(owner: &SecretOwner, key: &SecretKey) -> Self {
        Self { owner: owner.to_string(), key: key.to_string() }
    }
}

/// Who touched what, newest first.
#[derive(Debug, Serialize)]
pub(crate) struct Events {
    pub(crate) events: Vec<Event>,
}

/// One event.
#[derive(Debug, Serialize)]
pub(crate) struct Event {
    pub(crate) number: u64,
    pub(crate) at: Timestamp,
    pub(crate) actor: String,
    pub(crate) action: &'static str,
    pub(crate) object: String,
    pub(crate) outcome: &'static str,
}

impl Events {
    pub(crate) fn from_records(records: Vec<AuditRecord>) -> Self {
        let event = |record| {
            let AuditRecord { number, event: AuditEvent { at, actor, action, object, outcome } } =
                record;
            let (action, outcome) = (action.as_str(), outcome.as_str());
            Event { number, at, actor: actor.to_string(), action, object, outcome }
        };
        Self { events: records.into_iter().map(event).collect() }
    }
}
