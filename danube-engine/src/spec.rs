//! A job before it runs: what is to be done, with what, where.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use danube_artifacts::attest::{EntryPoint, Source};
use danube_artifacts::collect::Patterns;
use danube_core::{JobId, SecretBytes, StepName};
use danube_exec::Command;
use danube_secrets::Needles;
use danube_store::{MAX_STEPS, MAX_TEXT_BYTES, MAX_WORK_DIR_BYTES};

use crate::{Collect, Error};

/// The most characters the name of a job may have.
pub const MAX_NAME_CHARS: usize = 200;
/// The most days that a job can ask to be kept: a hundred years.
pub const MAX_RETENTION_DAYS: u32 = 36_500;

/// The variable that tells a step its job's id.
pub const JOB_ID_VARIABLE: &str = "DANUBE_JOB_ID";
/// The variable that tells a step its name.
pub const STEP_VARIABLE: &str = "DANUBE_STEP";

/// What is to be run. [`JobRunner::run`](crate::JobRunner::run) takes it.
#[derive(Clone)]
#[non_exhaustive]
pub struct JobSpec {
    /// The id it is to have; new for every run.
    pub id: JobId,
    /// What people call it.
    pub name: String,
    /// The steps, run one after another until one of them does not pass.
    pub steps: Vec<StepSpec>,
    /// Variables of every step.
    pub env: BTreeMap<String, String>,
    /// Variables that were there before: what the host gives every job, `PATH` first of all. Nothing
    /// is inherited from the process that runs the job.
    pub base_env: Vec<(String, SecretBytes)>,
    /// Variables of every step whose values are masked in everything that is written down. The last of
    /// one name holds, and all of them are masked.
    pub secrets: Vec<(String, SecretBytes)>,
    /// How long the steps may take in all; keeping what they made is not counted.
    pub timeout: Option<Duration>,
    /// The files to keep.
    pub artifacts: Collect,
    /// Where the steps run and where files are looked for; absolute.
    pub work_dir: PathBuf,
    /// Directories where no files are looked for, such as Danube's own data directory.
    pub exclude: Vec<PathBuf>,
    /// How long log and artifacts are kept; `None` leaves it to the policy.
    pub retention_days: Option<u32>,
    /// The pipeline that it is a run of, for its provenance.
    pub pipeline: Option<String>,
    /// What is built, for its provenance. Nobody checks it: whoever starts the job vouches for it. What opens
    /// the repository, in `https://TOKEN@host`, is left out.
    pub source: Option<Source>,
    /// The file that says what it does, for its provenance.
    pub entry_point: Option<EntryPoint>,
}

/// One step of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepSpec {
    /// Its name, unique within the job.
    pub name: StepName,
    /// What it runs.
    pub command: StepCommand,
    /// Variables of this step; they win over those of the job.
    pub env: BTreeMap<String, String>,
    /// How long it may take.
    pub timeout: Option<Duration>,
}

/// What a step runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepCommand {
    /// A script for `/bin/sh -c`.
    Shell(String),
    /// A program, looked for along the step's `PATH`, and its arguments.
    Argv(Vec<OsString>),
}

impl JobSpec {
    /// A job with these steps and nothing else.
    #[must_use]
    pub fn new(
        id: JobId,
        name: impl Into<String>,
        steps: Vec<StepSpec>,
        work_dir: PathBuf,
    ) -> Self {
        Self {
            id,
            name: name.into(),
            steps,
            env: BTreeMap::new(),
            base_env: Vec::new(),
            secrets: Vec::new(),
            timeout: None,
            artifacts: Collect::default(),
            work_dir,
            exclude: Vec::new(),
            retention_days: None,
            pipeline: None,
            source: None,
            entry_point: None,
        }
    }

    /// Checks everything that can be checked before anything starts.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for steps, names, variables, timeouts and paths; [`Error::Secret`] for a
    /// value that cannot be masked; [`Error::Globs`]. Each names the thing that is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        let job = || format!("job {:?}", crate::duration::shortened(&self.name));
        check_job_name(&self.name).map_err(|rule| Error::invalid(job(), rule))?;
        if self.steps.is_empty() {
            return Err(Error::invalid(job(), "has no steps"));
        }
        if self.steps.len() > MAX_STEPS {
            return Err(Error::invalid(job(), format!("has more than {MAX_STEPS} steps")));
        }
        check_variables(&job(), &self.env)?;
        check_timeout_of(&job(), self.timeout)?;
        if let Some(source) = &self.source {
            source.validate().map_err(|e| Error::invalid("source", e.to_string()))?;
        }
        if let Some(days) = self.retention_days {
            check_retention(days).map_err(|rule| Error::invalid("retention_days", rule))?;
        }
        if !self.work_dir.is_absolute() || self.work_dir.as_os_str().len() > MAX_WORK_DIR_BYTES / 3
        {
            let path = self.work_dir.to_string_lossy();
            let what = format!("work directory {:?}", crate::duration::shortened(&path));
            return Err(Error::invalid(what, "must be an absolute path of a usual length"));
        }
        for (name, value) in &self.base_env {
            let is_name = !name.is_empty() && !name.contains(['=', '\0']);
            if !is_name || value.expose().contains(&0) {
                let what = format!("base variable {name:?}");
                return Err(Error::invalid(
                    what,
                    "must be a name without '=' and NUL, and a value without NUL",
                ));
            }
        }
        for (name, value) in &self.secrets {
            check_variable(name)
                .map_err(|rule| Error::invalid(format!("secret {name:?}"), rule))?;
            if value.expose().contains(&0) {
                let rule = "holds a NUL byte, which no environment variable can";
                return Err(Error::invalid(format!("secret {name}"), rule));
            }
            Needles::check(value).map_err(|source| Error::Secret { name: name.clone(), source })?;
        }
        let needles = self.needles()?;
        for (index, step) in self.steps.iter().enumerate() {
            step.validate(&needles)?;
            if self.steps[..index].iter().any(|before| before.name == step.name) {
                return Err(Error::invalid(format!("step {:?}", step.name), "stands twice"));
            }
        }
        self.patterns().map(drop)
    }

    /// What is masked in everything the job writes down.
    pub(crate) fn needles(&self) -> Result<Needles, Error> {
        Needles::new(self.secrets.iter().map(|(_, value)| value.clone()))
            .map_err(|source| Error::Secret { name: "values".to_owned(), source })
    }

    /// What is looked for; `None` where nothing is to be kept.
    pub(crate) fn patterns(&self) -> Result<Option<Patterns>, Error> {
        self.artifacts.patterns()
    }

    /// The command of a step with its whole environment: what was there before, the job's, the step's,
    /// the secrets, and last what Danube says itself.
    pub(crate) fn command(&self, step: &StepSpec) -> Command {
        let mut env: BTreeMap<&str, SecretBytes> = BTreeMap::new();
        env.extend(self.base_env.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let plain = self.env.iter().chain(&step.env);
        env.extend(plain.map(|(name, value)| (name.as_str(), value.as_str().into())));
        env.extend(self.secrets.iter().map(|(name, value)| (name.as_str(), value.clone())));
        env.insert(JOB_ID_VARIABLE, self.id.as_str().into());
        env.insert(STEP_VARIABLE, step.name.as_str().into());
        let command = match &step.command {
            StepCommand::Shell(script) => Command::new("/bin/sh").with_args(["-c", script]),
            StepCommand::Argv(words) => {
                let mut words = words.iter();
                Command::new(words.next().cloned().unwrap_or_default()).with_args(words)
            }
        };
        env.into_iter()
            .fold(command, |command, (name, value)| command.with_env(name, value))
            .with_current_dir(&self.work_dir)
    }
}

impl fmt::Debug for JobSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |vars: &[(String, SecretBytes)]| -> Vec<String> {
            vars.iter().map(|(name, _)| name.clone()).collect()
        };
        f.debug_struct("JobSpec")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("steps", &self.steps)
            .field("env", &self.env)
            .field("base_env", &names(&self.base_env))
            .field("secrets", &names(&self.secrets))
            .field("timeout", &self.timeout)
            .field("artifacts", &self.artifacts)
            .field("work_dir", &self.work_dir)
            .field("exclude", &self.exclude)
            .field("retention_days", &self.retention_days)
            .finish()
    }
}

impl StepSpec {
    /// A step that runs this.
    #[must_use]
    pub fn new(name: StepName, command: StepCommand) -> Self {
        Self { name, command, env: BTreeMap::new(), timeout: None }
    }

    fn validate(&self, needles: &Needles) -> Result<(), Error> {
        let step = format!("step {:?}", self.name);
        // Its name stands in every line of the log, before anything is masked there.
        if needles.redact_str(self.name.as_str()) != self.name.as_str() {
            return Err(Error::invalid("the name of a step", "holds the value of a secret"));
        }
        check_variables(&step, &self.env)?;
        check_timeout_of(&step, self.timeout)?;
        let command = match &self.command {
            StepCommand::Shell(script) => check_script(script),
            StepCommand::Argv(words) => check_argv(words),
        };
        command.map_err(|rule| Error::invalid(step, rule))
    }
}

impl StepCommand {
    /// The command as it is written down: as one would type it, without secrets, not endless.
    pub(crate) fn recorded(&self, needles: &Needles) -> String {
        let typed = match self {
            Self::Shell(script) => script.clone(),
            Self::Argv(words) => {
                // Word by word first: quoting may break a secret into parts that no longer match.
                let quoted = |word: &OsString| {
                    shell_quoted(OsStr::from_bytes(&needles.redact(word.as_bytes())))
                };
                words.iter().map(quoted).collect::<Vec<_>>().join(" ")
            }
        };
        // Masked before it is cut: the beginning of a secret must not stand at the end.
        let mut text = needles.redact_str(&typed);
        if text.len() > MAX_TEXT_BYTES {
            text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES - '…'.len_utf8()));
            text.push('…');
        }
        text
    }
}

/// A word as a shell reads it back; bytes that are not text become the replacement character.
fn shell_quoted(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%^*".contains(c);
    // A star may be the mask, and is read as such more easily without quotes.
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// The name of a variable that a job may set.
pub(crate) fn check_variable(name: &str) -> Result<(), String> {
    let mut bytes = name.bytes();
    let begins = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !begins || !bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(format!(
            "the variable {:?} must be letters, digits and '_', and not begin with a digit",
            crate::duration::shortened(name)
        ));
    }
    if matches!(name, JOB_ID_VARIABLE | STEP_VARIABLE) {
        return Err(format!("the variable {name} is set by Danube"));
    }
    Ok(())
}

pub(crate) fn check_job_name(name: &str) -> Result<(), String> {
    let clean = !name.trim().is_empty() && !name.chars().any(char::is_control);
    if clean && name.chars().count() <= MAX_NAME_CHARS {
        Ok(())
    } else {
        Err(format!("must have a name of 1 to {MAX_NAME_CHARS} characters without controls"))
    }
}

pub(crate) fn check_script(script: &str) -> Result<(), String> {
    if script.trim().is_empty() {
        Err("must have something to run".to_owned())
    } else if script.contains('\0') {
        Err("must not have a NUL byte in its script".to_owned())
    } else {
        Ok(())
    }
}

fn check_argv(words: &[OsString]) -> Result<(), String> {
    match words.first() {
        None => Err("must have something to run".to_owned()),
        Some(program) if program.is_empty() => Err("must name its program".to_owned()),
        _ if words.iter().any(|word| word.as_bytes().contains(&0)) => {
            Err("must not have a NUL byte in its command".to_owned())
        }
        _ => Ok(()),
    }
}

pub(crate) fn check_timeout(timeout: Duration) -> Result<(), String> {
    if timeout.is_zero() { Err("a timeout must be longer than nothing".to_owned()) } else { Ok(()) }
}

pub(crate) fn check_retention(days: u32) -> Result<(), String> {
    if (1..=MAX_RETENTION_DAYS).contains(&days) {
        Ok(())
    } else {
        Err(format!("must be 1 to {MAX_RETENTION_DAYS} days"))
    }
}

fn check_timeout_of(whose: &str, timeout: Option<Duration>) -> Result<(), Error> {
    timeout
        .map_or(Ok(()), check_timeout)
        .map_err(|rule| Error::invalid(whose, format!("is wrong: {rule}")))
}

fn check_variables(whose: &str, env: &BTreeMap<String, String>) -> Result<(), Error> {
    for (name, value) in env {
        check_variable(name).map_err(|rule| Error::invalid(whose, format!("is wrong: {rule}")))?;
        if value.contains('\0') {
            return Err(Error::invalid(whose, format!("has a NUL byte in its variable {name}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
