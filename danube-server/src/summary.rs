//! What `danube run` says at its end, and while it copies.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use danube_core::{JobState, Timestamp};
use danube_engine::Outcome;
use danube_store::{JobRecord, StepRecord};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::config::Config;
use crate::terminal::{duration, safe, size, word};

/// The summary for people.
pub(crate) fn text(outcome: &Outcome, config: &Config) -> String {
    let Outcome { job, artifacts, .. } = outcome;
    let mut text = format!(
        "danube: job {} {}{}\n",
        job.id,
        verdict(job),
        took(job.started_at, job.finished_at)
    );
    if let Some(message) = &job.message {
        text.push_str(&format!("  {}\n", safe(message)));
    }
    let width = job.steps.iter().map(|step| step.name.as_str().chars().count()).max().unwrap_or(0);
    for step in &job.steps {
        let name = step.name.as_str();
        let end = took(step.started_at, step.finished_at);
        text.push_str(&format!("  step      {name:width$}  {}{end}\n", step_verdict(step)));
    }
    let cut = if job.log_truncated { ", truncated" } else { "" };
    let mut log = config.data_dir.join("logs").join(format!("{}.log", job.id));
    let compressed = log.with_added_extension("zst");
    if compressed.exists() {
        log = compressed;
    }
    text.push_str(&format!("  log       {} ({}{cut})\n", log.display(), size(job.log_bytes)));
    for artifact in artifacts {
        text.push_str(&format!(
            "  artifact  {} ({}, sha256 {})\n",
            safe(artifact.name.as_str()),
            size(artifact.size_bytes),
            artifact.digest
        ));
    }
    // What is kept of a job that did not pass is signed, and proved by nothing.
    let is_proved = job.state == JobState::Succeeded;
    // In a bucket nothing has a path.
    let dir = match config.s3 {
        None => Some(config.data_dir.join("artifacts").join(job.id.as_str())),
        Some(_) => None,
    };
    if is_proved && !artifacts.is_empty() {
        let proof = dir.as_ref().map_or_else(
            || format!("danube artifacts provenance {}", job.id),
            |dir| dir.join(".danube/provenance.json").display().to_string(),
        );
        text.push_str(&format!("  proof     {proof}\n"));
    }
    text.push_str(&format!("  next      danube logs {}\n", job.id));
    if let Some(artifact) = artifacts.first() {
        let (id, name) = (&job.id, artifact.name.as_str());
        text.push_str(&format!("            danube artifacts list {id}\n"));
        let next = match dir {
            None => format!("artifacts get {id} {}", word(name)),
            Some(dir) => format!(
                "verify-artifact {}{}",
                if is_proved { "" } else { "--signature-only " },
                word(&dir.join(name).display().to_string())
            ),
        };
        text.push_str(&format!("            danube {next}\n"));
    }
    text
}

fn verdict(job: &JobRecord) -> String {
    match (job.state, job.lost_reason) {
        (JobState::TimedOut, _) => "timed out".to_owned(),
        (JobState::Lost, Some(reason)) => format!("has no verdict: lost ({reason})"),
        (state, _) => state.to_string(),
    }
}

fn step_verdict(step: &StepRecord) -> String {
    if step.started_at.is_none() {
        return "not run".to_owned();
    }
    let state = match step.state {
        JobState::Succeeded => "passed".to_owned(),
        JobState::TimedOut => "timed out".to_owned(),
        state => state.to_string(),
    };
    match (step.exit_code, step.signal) {
        (Some(code), _) if code != 0 => format!("{state}, exit code {code}"),
        (_, Some(signal)) => format!("{state}, signal {signal}"),
        _ => state,
    }
}

fn took(start: Option<Timestamp>, end: Option<Timestamp>) -> String {
    match (start, end) {
        (Some(start), Some(end)) => {
            format!(
                " in {}",
                duration(Duration::try_from(end.duration_since(start)).unwrap_or_default())
            )
        }
        _ => String::new(),
    }
}

/// A bar for copies that take over a second; nothing where nobody looks.
pub(crate) struct CopyBar {
    bar: ProgressBar,
    wanted: bool,
    shown: AtomicBool,
}

impl CopyBar {
    pub(crate) fn new(wanted: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        Self { bar, wanted, shown: AtomicBool::new(false) }
    }

    /// So many bytes of `name` are copied, of so many if that is known.
    pub(crate) fn at(&self, name: &str, copied: u64, total: impl Into<Option<u64>>) {
        if !self.wanted || self.bar.elapsed() <= Duration::from_secs(1) {
            return;
        }
        let total = total.into();
        if !self.shown.swap(true, Ordering::Relaxed) {
            let template = match total {
                Some(_) => "{msg} {bytes}/{total_bytes} [{bar:30}] {bytes_per_sec}",
                None => "{msg} {bytes} {bytes_per_sec}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar.set_style(style);
            }
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_message(safe(name));
        if let Some(total) = total {
            self.bar.set_length(total);
        }
        self.bar.set_position(copied);
    }

    pub(crate) fn done(&self) {
        self.bar.finish_and_clear();
    }
}
