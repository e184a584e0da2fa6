//! `danube run`: makes the job from what was typed, runs it here, shows it live, says how it ended.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use danube_artifacts::attest::{EntryPoint, Source};
use danube_core::{ErrorClass, JobId, SecretBytes};
use danube_engine::{
    Cancel, Checkout, JobFile, JobRunner, JobSpec, Outcome, RunnerOptions, StepCommand, StepSpec,
};
use danube_exec::{Guardian, LocalProcesses};
use danube_logs::{Follower, LogPhase};
use danube_secrets::Needles;
use danube_store::JobStore;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::cli::{Output, RunArgs};
use crate::config::{Config, DAY};
use crate::failure::Failure;
use crate::jobs::print_json;
use crate::secrets::{self, Given, Source as SecretSource};
use crate::summary::{self, CopyBar};
use crate::terminal::{self, Sink};
use crate::view::{Shown, View, ViewOptions, show};
use crate::{Environment, wire};

/// The longest job file that is read.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// What a detached run says when its job has begun.
const BEGUN: &str = "begun";

/// How often a thing that will come in a moment is looked for.
const LOOK: Duration = Duration::from_millis(10);

pub(crate) async fn run(
    config: Config,
    args: RunArgs,
    environment: &Environment,
    guardian: Guardian,
) -> Result<u8, Failure> {
    let (detach, promised, output) = (args.detach, args.detached_as.clone(), args.output);
    let looks_for_source = !args.no_source && args.repository.is_none();
    let work_dir =
        fs::canonicalize(".").map_err(|e| Failure::io("cannot find the current directory", &e))?;
    let file = args.file.clone();
    let owner = args.owner.clone();
    let (mut spec, sources) = spec(args, environment, work_dir, &config)?;
    let validate = |spec: &JobSpec| {
        spec.validate().map_err(|error| {
            let failure = Failure::from(error).to_string();
            // What is wrong may quote what was typed, and a secret in it.
            let values = spec.secrets.iter().map(|(_, value)| value.clone());
            let failure = Needles::new(values).map_or(failure.clone(), |n| n.redact_str(&failure));
            Failure::invalid(match &file {
                Some(path) => format!("{}: {failure}", path.display()),
                None => failure,
            })
        })
    };
    validate(&spec)?;
    let keep_for = spec.retention_days.map(|days| DAY * days);
    config.check_kept(keep_for, false)?;
    let app = App::open(config).await?;
    // The parts are made before anything is promised: a key that must not be used is told here.
    let parts = app.parts(Arc::new(LocalProcesses::with_guardian(guardian))).await?;
    if detach {
        return start_detached(&spec.id, environment).await;
    }
    if looks_for_source {
        name_source(&mut spec, file.as_deref(), environment).await;
    }
    let Given { values, loaded } = secrets::resolve(&app, &spec.id, &owner, sources).await?;
    spec.secrets = values;
    if app.config.s3.is_some() {
        mask_bucket_keys(&mut spec, environment);
    }
    validate(&spec)?;
    let mut options = RunnerOptions::default()
        .with_grace(app.config.grace)
        .with_log(app.config.log.clone())
        .with_max_artifact_bytes(app.config.max_artifact_bytes)
        .with_max_total_artifact_bytes(app.config.max_total_artifact_bytes)
        .with_max_artifacts(app.config.max_artifacts)
        .with_collect_limit(app.config.collect_limit)
        .with_builder_id(&app.config.builder_id)
        .with_provenance_form(app.config.provenance_form);
    options.keep_log_with_artifacts = app.config.s3.is_some();
    let runner = JobRunner::new(parts, options);
    let ended = match promised {
        Some(id) => run_detached(&app, &runner, spec, &id).await,
        None => run_here(&app, &runner, spec, output, environment).await,
    };
    // An early return and a panic do the same.
    drop(loaded);
    ended
}

/// What opens the bucket is no secret of the job, but its steps see the environment: it is masked in what they print.
fn mask_bucket_keys(spec: &mut JobSpec, environment: &Environment) {
    for (name, value) in &environment.vars {
        let Some(name @ ("AWS_SECRET_ACCESS_KEY" | "AWS_SESSION_TOKEN")) = name.to_str() else {
            continue;
        };
        let is_own = spec.env.contains_key(name)
            || spec.steps.iter().any(|step| step.env.contains_key(name))
            || spec.secrets.iter().any(|(own, _)| own == name);
        // One that is too short to be masked opens no bucket but that of a test.
        if !is_own && value.len() >= danube_secrets::MIN_SECRET_BYTES {
            let value = danube_core::SecretBytes::from(value.as_encoded_bytes().to_vec());
            spec.secrets.push((name.to_owned(), value));
        }
    }
}

/// The job that was asked for, and where its secrets come from. Those that were in files it has already.
fn spec(
    args: RunArgs,
    environment: &Environment,
    work_dir: PathBuf,
    config: &Config,
) -> Result<(JobSpec, Vec<(String, SecretSource)>), Failure> {
    let RunArgs { file, command, step, artifacts, env, secrets, timeout, detached_as, .. } = args;
    let source = args.repository.zip(args.commit).map(|(repository, commit)| {
        let source = Source::new(repository, commit);
        args.branch.into_iter().fold(source, Source::with_branch)
    });
    let id = detached_as
        .unwrap_or_else(|| JobId::mint(danube_core::Clock::now(&danube_core::SystemClock)));
    let mut secret_files = secrets;
    let mut spec = match file {
        Some(path) => {
            let (file, text) = read_job_file(&path)?;
            // What is typed comes after what is written, and wins.
            let mut all: Vec<(String, String)> = file.secrets.clone().into_iter().collect();
            all.append(&mut secret_files);
            secret_files = all;
            let mut spec = file.into_spec(id, work_dir);
            spec.pipeline = Some(spec.name.clone());
            spec.entry_point = Some(EntryPoint::of(path.to_string_lossy(), text.as_bytes()));
            spec
        }
        None => {
            let name = command.first().map(|program| program.to_string_lossy().into_owned());
            let name = Path::new(&name.unwrap_or_default())
                .file_name()
                .map(|n| n.to_string_lossy().into_owned());
            let step = StepSpec::new(step, StepCommand::Argv(command));
            JobSpec::new(id, name.unwrap_or_else(|| "run".to_owned()), vec![step], work_dir)
        }
    };
    spec.source = source;
    spec.env.extend(env);
    spec.artifacts.paths.extend(artifacts);
    spec.artifacts.exclude.extend(args.artifact_exclude);
    spec.artifacts.preset = args.artifact_preset.or(spec.artifacts.preset);
    spec.artifacts.when = args.collect.unwrap_or(spec.artifacts.when);
    spec.timeout = timeout.or(spec.timeout);
    spec.exclude.push(config.data_dir.clone());
    spec.base_env = base_env(environment);
    let mut sources = Vec::new();
    for (name, text) in secret_files {
        let source = SecretSource::parse(&text).map_err(|e| {
            Failure::invalid(match &e {
                // What names no file is not repeated: somebody may have typed the value itself.
                danube_secrets::Error::Io { source, .. } if names_nothing(source) => format!(
                    "secret {name}: no such file; give the path of a file, vault:NAME or sealed:…, never \
                     the value itself"
                ),
                _ => format!("secret {name}: {}", Failure::of(e.class(), &e)),
            })
        })?;
        if let SecretSource::Value(value) = &source {
            spec.secrets.push((name.clone(), value.clone()));
        }
        sources.push((name, source));
    }
    Ok((spec, sources))
}

/// Names the source of the work tree that the job runs in, and the job file by its place in it.
async fn name_source(spec: &mut JobSpec, file: Option<&Path>, environment: &Environment) {
    match Checkout::of(&spec.work_dir, &environment.vars).await {
        Ok(Some(checkout)) => {
            let file = file.and_then(|file| fs::canonicalize(file).ok());
            let below =
                file.and_then(|file| Some(file.strip_prefix(&checkout.root).ok()?.to_owned()));
            if let (Some(below), Some(entry)) = (below, &mut spec.entry_point) {
                entry.path = below.to_string_lossy().into_owned();
            }
            spec.source = Some(checkout.source);
        }
        Ok(None) => {}
        Err(why) => {
            let why = format!("the provenance will name no source: {why}");
            // Where no file is kept hardly anybody will read the provenance.
            if spec.artifacts.is_empty() {
                tracing::info!("{why}");
            } else {
                Sink::Stderr.line(&format!("danube: {}", terminal::safe(&why)));
            }
        }
    }
}

/// Whether a path that could not be opened is the path of nothing.
fn names_nothing(error: &io::Error) -> bool {
    use io::ErrorKind as E;
    matches!(error.kind(), E::NotFound | E::NotADirectory | E::InvalidFilename | E::InvalidInput)
}

/// The environment of this process, without what is Danube's own.
fn base_env(environment: &Environment) -> Vec<(String, SecretBytes)> {
    let is_ours = |name: &str| name.starts_with("DANUBE_");
    let vars = environment.vars.iter();
    vars.filter_map(|(name, value)| Some((name.to_str()?, value)))
        .filter(|(name, _)| !is_ours(name))
        .map(|(name, value)| (name.to_owned(), SecretBytes::new(value.as_bytes().to_vec())))
        .collect()
}

/// The job that a file describes, and its text.
fn read_job_file(path: &Path) -> Result<(JobFile, String), Failure> {
    let wrong = |why: String| Failure::invalid(format!("{}: {why}", path.display()));
    let meta = fs::metadata(path).map_err(|e| wrong(e.to_string()))?;
    if !meta.is_file() {
        return Err(wrong("is not a file".to_owned()));
    }
    if meta.len() > MAX_FILE_BYTES {
        return Err(wrong(format!("is longer than {MAX_FILE_BYTES} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    let file = JobFile::parse(&text);
    let file = file.map_err(|e| wrong(Failure::of(e.class(), &e).to_string()))?;
    Ok((file, text))
}

/// Runs the job in this process and shows its log as it grows.
async fn run_here(
    app: &App,
    runner: &JobRunner,
    spec: JobSpec,
    output: Output,
    environment: &Environment,
) -> Result<u8, Failure> {
    let sink = if output == Output::Json { Sink::Stderr } else { Sink::Stdout };
    let cancel = Cancel::default();
    let over = CancellationToken::new();
    let signals = tokio::spawn(cancel_on_signal(cancel.clone()));
    let view = ViewOptions {
        safe: sink.is_terminal(),
        dim: environment.colour(sink),
        format: app.config.log.format,
        ..ViewOptions::default()
    };
    let live =
        tokio::spawn(live(app.clone(), spec.id.clone(), View::new(view), sink, over.clone()));
    let bar = CopyBar::new(environment.colour(Sink::Stderr));
    let outcome = runner
        .run(spec, cancel, &|name, copied, total| {
            bar.at(name.as_str(), copied, total);
        })
        .await;
    bar.done();
    // The log is sealed, or will never be: the view ends by itself.
    over.cancel();
    signals.abort();
    if let Ok(Err(failure)) = live.await {
        Sink::Stderr.line(&format!("danube: the live view ended: {failure}"));
    }
    let outcome: Outcome = outcome?;
    match output {
        Output::Json => print_json(&wire::Ran::from_outcome(&outcome)),
        Output::Text => {
            Sink::Stderr.text(&summary::text(&outcome, &app.config));
        }
    }
    Ok(outcome.exit_code())
}

/// Follows the job's log from its first byte; ends with the log, or when the job ended without one.
async fn live(
    app: App,
    id: JobId,
    view: View,
    sink: Sink,
    over: CancellationToken,
) -> Result<(), Failure> {
    loop {
        match app.logs.stat(&id).await {
            Ok(_) => break,
            Err(e) if e.class() == ErrorClass::NotFound && !over.is_cancelled() => {
                tokio::time::sleep(LOOK).await;
            }
            Err(e) if e.class() == ErrorClass::NotFound => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
    let mut follower = Follower::new(app.logs.clone(), id.clone(), 0);
    let mut view = view;
    loop {
        let (shown, back) = show(&mut follower, view, sink).await?;
        view = back;
        match shown {
            // This process owns the log, so it is abandoned only when sealing it failed.
            Shown::Abandoned if !over.is_cancelled() => tokio::time::sleep(LOOK).await,
            _ => return Ok(()),
        }
    }
}

/// Cancels the job on the first SIGINT, SIGTERM, SIGQUIT or SIGHUP; the second ends the collecting of its
/// files too, and the next ones change nothing: the group's grace period is running. A SIGHUP that was ignored before, by `nohup`, stays ignored.
async fn cancel_on_signal(cancel: Cancel) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut hangup =
        if is_ignored(SignalKind::hangup()) { None } else { Some(signal(SignalKind::hangup())?) };
    let mut hung_up = async || match &mut hangup {
        Some(hangup) => hangup.recv().await,
        None => std::future::pending().await,
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = quit.recv() => {}
            _ = hung_up() => {}
        }
        if cancel.job.is_cancelled() {
            Sink::Stderr
                .line("danube: the job is already being ended; no more files are collected");
            cancel.collecting.cancel();
        } else {
            Sink::Stderr.line("danube: ending the job");
            cancel.job.cancel();
        }
    }
}

/// Whether a signal is ignored by this process, as it was started.
fn is_ignored(kind: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (kind.as_raw_value() - 1)) != 0)
}

/// Starts this program again, out of the terminal's reach, and returns when its job has begun.
async fn start_detached(id: &JobId, environment: &Environment) -> Result<u8, Failure> {
    let failed = |e: &io::Error| Failure::io("cannot start the detached run", e);
    let args = detached_args(&environment.args, id);
    let mut command = std::process::Command::new("/proc/self/exe");
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|e| failed(&e))?;
    let out = child.stdout.take().ok_or_else(|| failed(&io::ErrorKind::BrokenPipe.into()))?;
    let waited = tokio::task::spawn_blocking(move || {
        let mut said = String::new();
        BufReader::new(out).read_line(&mut said)?;
        // It goes on: only one that failed is waited for.
        let status = if said.trim() == BEGUN { None } else { Some(child.wait()?) };
        Ok::<_, io::Error>(status)
    });
    match waited.await.expect("waiting does not panic").map_err(|e| failed(&e))? {
        None => {
            Sink::Stdout.line(id.as_str());
            Ok(0)
        }
        // It has said on stderr why.
        Some(status) => Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(5)),
    }
}

/// The same words, with the promised id instead of the wish to be detached.
fn detached_args(args: &[OsString], id: &JobId) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let mut in_command = false;
    for word in args.iter().skip(1) {
        in_command |= word == OsStr::new("--");
        if !in_command && word == OsStr::new("--detach") {
            words.push("--detached-as".into());
            words.push(id.as_str().into());
        } else {
            words.push(word.clone());
        }
    }
    words
}

/// The detached side: its own session, and after its job has begun no terminal either.
async fn run_detached(
    app: &App,
    runner: &JobRunner,
    spec: JobSpec,
    id: &JobId,
) -> Result<u8, Failure> {
    // It may lead a group already; then the session stays, which only means that a closing
    // terminal sends SIGHUP, and that cancels the job in order.
    let _ = rustix::process::setsid();
    let cancel = Cancel::default();
    let signals = tokio::spawn(cancel_on_signal(cancel.clone()));
    let running = runner.run(spec, cancel, &|_, _, _| {});
    tokio::pin!(running);
    let begun = async {
        loop {
            let recorded = app.store.get(id).await.is_ok();
            let owned = app.logs.stat(id).await.is_ok_and(|stat| stat.phase == LogPhase::Open);
            if recorded && owned {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let outcome = tokio::select! {
        biased;
        outcome = &mut running => {
            // So short a job has begun, and ended too.
            if outcome.is_ok() {
                leave_terminal()?;
            }
            outcome
        }
        () = begun => {
            leave_terminal()?;
            running.await
        }
    };
    signals.abort();
    Ok(outcome?.exit_code())
}

/// Tells whoever started this that the job has begun, and lets go of the terminal.
fn leave_terminal() -> Result<(), Failure> {
    Sink::Stdout.line(BEGUN);
    let failed = |e: io::Error| Failure::io("cannot leave the terminal", &e);
    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null").map_err(failed)?;
    rustix::stdio::dup2_stdout(&null).map_err(|e| failed(e.into()))?;
    rustix::stdio::dup2_stderr(&null).map_err(|e| failed(e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detached_run_is_started_with_the_same_words_but_its_wish() {
        let id: JobId = "x".parse().unwrap();
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(
            detached_args(&words("danube run --detach --step a -- cmd --detach"), &id),
            words("run --detached-as x --step a -- cmd --detach")
        );
    }
}
