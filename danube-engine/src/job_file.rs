//! A job as a file: YAML with few words, every one of them known.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use danube_core::{JobId, StepName};
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};

use crate::spec::{self, JobSpec, StepCommand, StepSpec};
use crate::yaml::{self, MERGE, Merge};
use crate::{Collect, Error, parse_duration};

/// What a job file says.
///
/// ```yaml
/// name: nightly
/// timeout: 1h30m
/// env:
///   RUST_BACKTRACE: 1
/// secrets:
///   DEPLOY_TOKEN: /etc/danube/deploy-token
/// steps:
///   - name: build
///     run: cargo build --release
///   - name: test
///     run: |
///       set -e
///       cargo test
///     env: { PROFILE: release }
///     timeout: 20m
/// artifacts:
///   paths: [target/release/app, "reports/**"]
///   when: always
/// retention_days: 14
/// ```
///
/// `name` and `steps` are required, and so are `name` and `run` of a step; `run` is a script for
/// `/bin/sh -c`. Durations are those of [`parse_duration`]. Values of `env` may be written without
/// quotes and arrive as written (`1.10` stays `1.10`). Merge keys (`<<: *anchor`) work in steps and in
/// `env` and `secrets`. `artifacts` is a list of globs, or says with `paths`, `preset` (`data`), `exclude`,
/// `when` (`success`, `always`), `max_file_bytes`, `max_total_bytes` and `max_files` what [`Collect`]
/// says. Keys that are not known are refused, and so are keys that stand twice.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JobFile {
    /// What people call the job.
    pub name: String,
    /// Environment variables of every step.
    pub env: BTreeMap<String, String>,
    /// Variables of every step whose values are secret, and the files that hold the values. Reading
    /// them is the caller's part.
    pub secrets: BTreeMap<String, String>,
    /// How long the steps may take in all.
    pub timeout: Option<Duration>,
    /// The steps in their order.
    pub steps: Vec<StepSpec>,
    /// The files to keep.
    pub artifacts: Collect,
    /// How long log and artifacts are kept.
    pub retention_days: Option<u32>,
}

impl JobFile {
    /// Reads a job file. Everything that can be told without running it is checked here, except the
    /// globs, which [`JobSpec::validate`] checks together with those of the command line.
    ///
    /// # Errors
    ///
    /// [`Error::JobFile`], which names path, line and column.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |reason: String| Error::JobFile { reason };
        let raw: RawJob = yaml::parse(text).map_err(wrong)?;
        let RawJob { name, env, secrets, timeout, steps, artifacts, retention_days } = raw;
        if steps.is_empty() {
            return Err(wrong("steps: there must be at least one".to_owned()));
        }
        let mut named: Vec<StepSpec> = Vec::with_capacity(steps.len());
        for (index, raw) in steps.into_iter().enumerate() {
            let step = raw.resolve().map_err(|why| wrong(format!("steps[{index}]: {why}")))?;
            if named.iter().any(|before| before.name == step.name) {
                let name = step.name;
                return Err(wrong(format!(
                    "steps[{index}]: a step before it is called {name:?} too"
                )));
            }
            named.push(step);
        }
        let timeout = timeout.map(|Checked(Timeout(duration))| duration);
        let retention_days = retention_days.map(|Checked(Days(days))| days);
        let Checked(JobName(name)) = name;
        Ok(Self {
            name,
            env: env.0,
            secrets: secrets.0,
            timeout,
            steps: named,
            artifacts,
            retention_days,
        })
    }

    /// The job that the file describes, without the secrets: their values are still to be read from
    /// where [`secrets`](Self::secrets) says.
    #[must_use]
    pub fn into_spec(self, id: JobId, work_dir: PathBuf) -> JobSpec {
        let Self { name, env, secrets: _, timeout, steps, artifacts, retention_days } = self;
        let mut spec = JobSpec::new(id, name, steps, work_dir);
        spec.env = env;
        spec.timeout = timeout;
        spec.artifacts = artifacts;
        spec.retention_days = retention_days;
        spec
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJob {
    name: Checked<JobName>,
    #[serde(default)]
    env: Variables,
    #[serde(default)]
    secrets: Variables,
    timeout: Option<Checked<Timeout>>,
    steps: Vec<RawStep>,
    #[serde(default)]
    artifacts: Collect,
    retention_days: Option<Checked<Days>>,
}

/// A step as it is written; what it leaves out may come from what is merged into it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a step: name, run, env, timeout")]
struct RawStep {
    name: Option<Checked<Name>>,
    run: Option<Checked<Script>>,
    env: Option<Variables>,
    timeout: Option<Checked<Timeout>>,
    #[serde(default, rename = "<<")]
    merge: Merge<RawStep>,
}

impl RawStep {
    fn resolve(self) -> Result<StepSpec, String> {
        let Self { name, run, env, timeout, merge: _ } = self.merged();
        let Checked(Name(name)) = name.ok_or("missing field `name`")?;
        let Checked(Script(script)) = run.ok_or("missing field `run`")?;
        let mut step = StepSpec::new(name, StepCommand::Shell(script));
        step.env = env.unwrap_or_default().0;
        step.timeout = timeout.map(|Checked(Timeout(duration))| duration);
        Ok(step)
    }

    /// What is written here wins over what is merged, and the first that is merged over the next.
    fn merged(self) -> Self {
        let Self { name, run, env, timeout, merge } = self;
        let mut step = Self { name, run, env, timeout, merge: Merge::default() };
        for other in merge.0 {
            let other = other.merged();
            step.name = step.name.or(other.name);
            step.run = step.run.or(other.run);
            step.env = step.env.or(other.env);
            step.timeout = step.timeout.or(other.timeout);
        }
        step
    }
}

/// Names of environment variables with a text each.
#[derive(Default)]
struct Variables(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Variables {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Variables;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of variables to text")
            }

            fn visit_unit<E>(self) -> Result<Variables, E> {
                Ok(Variables::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Variables, A::Error> {
                let mut entries = BTreeMap::new();
                let mut merge = Merge::<Variables>::default();
                while let Some(key) = map.next_key_seed(VariableName)? {
                    if key == MERGE {
                        merge = map.next_value()?;
                    } else {
                        entries.insert(key, map.next_value::<String>()?);
                    }
                }
                for Variables(others) in merge.0 {
                    for (key, value) in others {
                        entries.entry(key).or_insert(value);
                    }
                }
                Ok(Variables(entries))
            }
        }

        // Not `deserialize_map`: that refuses a key `env:` with nothing below it.
        deserializer.deserialize_any(Entries)
    }
}

/// Checks the name where the parser still knows its line.
struct VariableName;

impl<'de> DeserializeSeed<'de> for VariableName {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for VariableName {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a variable")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<String, E> {
        if name != MERGE {
            spec::check_variable(name).map_err(E::custom)?;
        }
        Ok(name.to_owned())
    }
}

/// A scalar that is checked where the parser still knows its line.
pub(crate) struct Checked<T>(pub(crate) T);

impl<'de, T: FromStr<Err = String>> Deserialize<'de> for Checked<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<T>(std::marker::PhantomData<T>);

        impl<T: FromStr<Err = String>> Visitor<'_> for Text<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text(std::marker::PhantomData)).map(Self)
    }
}

struct JobName(String);

impl FromStr for JobName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        spec::check_job_name(text)?;
        Ok(Self(text.to_owned()))
    }
}

struct Name(StepName);

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|e: danube_core::InvalidName| e.to_string())
    }
}

struct Script(String);

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        spec::check_script(text)?;
        Ok(Self(text.to_owned()))
    }
}

struct Timeout(Duration);

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let duration = parse_duration(text).map_err(|e| e.to_string())?;
        spec::check_timeout(duration)?;
        Ok(Self(duration))
    }
}

struct Days(u32);

impl FromStr for Days {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let days = text.parse().map_err(|_| "must be a whole number of days".to_owned())?;
        spec::check_retention(days)?;
        Ok(Self(days))
    }
}

#[cfg(test)]
mod tests;
