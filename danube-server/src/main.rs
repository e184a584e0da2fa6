#![doc = include_str!("../README.md")]

mod app;
mod archive;
mod artifacts;
mod cli;
mod config;
mod failure;
mod fetch;
mod grep;
mod http;
mod jobs;
mod keys;
mod logs;
mod run;
#[cfg(feature = "s3")]
mod s3;
#[cfg(not(feature = "s3"))]
#[path = "without_s3.rs"]
mod s3;
mod secrets;
mod serve;
mod summary;
mod terminal;
mod verify;
mod view;
mod wire;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use rustix::process::DumpableBehavior;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::app::App;
use crate::cli::{ArtifactsCommand, Cli, Command};
use crate::config::{Config, Home};
use crate::failure::Failure;
use crate::terminal::Sink;

/// What the process was given from outside: the only place where it is read.
#[derive(Clone)]
pub(crate) struct Environment {
    home: Home,
    no_color: Option<OsString>,
    term: Option<OsString>,
    /// What is told of the program's own doings: `tracing` directives, `warn` by default.
    log: Option<String>,
    vars: Vec<(OsString, OsString)>,
    args: Vec<OsString>,
}

impl Environment {
    #[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
    fn read() -> Self {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        // The XDG specification: a path that is not absolute is to be ignored.
        let dir = |name| var(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            home: Home {
                is_root: rustix::process::geteuid().is_root(),
                home: dir("HOME"),
                xdg_data_home: dir("XDG_DATA_HOME"),
                xdg_config_home: dir("XDG_CONFIG_HOME"),
            },
            no_color: var("NO_COLOR"),
            term: var("TERM"),
            log: var("DANUBE_LOG").and_then(|value| value.into_string().ok()),
            vars: std::env::vars_os().collect(),
            args: std::env::args_os().collect(),
        }
    }

    fn colour(&self, sink: Sink) -> bool {
        terminal::colour(sink, self.no_color.as_deref(), self.term.as_deref())
    }
}

/// What is told of the program's own doings unless `DANUBE_LOG` says otherwise. Where credentials were looked for in
/// vain the error of the command says.
const TOLD: &str = "warn,aws_config=error";

fn main() -> ExitCode {
    // Secrets are in this memory, in a guardian's too: no core file of it, and nobody else's debugger.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // Before any thread: this process may be the guardian of a step, and then it never comes back from here.
    #[expect(clippy::disallowed_methods, reason = "this is where the arguments are read")]
    let guardian = danube_exec::guardian(std::env::args_os());
    let environment = Environment::read();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            Sink::Stderr.line(&format!("danube: cannot start: {e}"));
            return ExitCode::from(5);
        }
    };
    let filter = environment.log.as_deref().unwrap_or(TOLD);
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(environment.colour(Sink::Stderr))
        .with_env_filter(EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new(TOLD)))
        .init();
    let is_run = matches!(cli.command, Command::Run(_));
    let ended = runtime.block_on(dispatch(cli, environment, guardian));
    // A write to a stopped terminal may still be waiting on a thread of its own; nothing waits for it.
    runtime.shutdown_background();
    match ended {
        Ok(_) if terminal::output_was_lost() => {
            Sink::Stderr.line("danube: cannot write the output: not all of it was printed");
            ExitCode::from(5)
        }
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            Sink::Stderr.line(&format!("danube: {}", terminal::safe(&failure.to_string())));
            ExitCode::from(if is_run { failure.exit_code_of_run() } else { failure.exit_code() })
        }
    }
}

async fn dispatch(
    cli: Cli,
    environment: Environment,
    guardian: danube_exec::Guardian,
) -> Result<u8, Failure> {
    // SIGXFSZ would end the process at the file size limit; handled, the write fails and says so.
    let _file_too_large = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))
        .map_err(|e| Failure::io("cannot handle signals", &e))?;
    if let Command::InitConfig(args) = cli.command {
        let path = config::init(args.path, &environment.home)?;
        Sink::Stdout.line(&path.display().to_string());
        return Ok(0);
    }
    if let Command::Artifacts(ArtifactsCommand::Pack { dir, file }) = cli.command {
        return archive::pack_directory(dir, file).await;
    }
    if let Command::Artifacts(ArtifactsCommand::Unpack { file, dir }) = cli.command {
        return archive::unpack_file(file, dir).await;
    }
    let config = Config::load(cli.data_dir, cli.config, &environment.home)?;
    match cli.command {
        Command::Run(args) => run::run(config, *args, &environment, guardian).await,
        Command::Jobs(args) => jobs::list(&App::open(config).await?, &args).await,
        Command::Cancel(args) => jobs::cancel(&App::open(config).await?, &args.job).await,
        Command::Logs(args) => logs::logs(&App::open(config).await?, args, &environment).await,
        Command::Artifacts(ArtifactsCommand::S3(command)) => s3::command(config, command).await,
        Command::Artifacts(command) => {
            artifacts::artifacts(&App::open(config).await?, command, &environment).await
        }
        Command::Keys(command) => keys::keys(&config, command).await,
        Command::VerifyArtifact(args) => verify::verify(&config, args).await,
        Command::Secrets(command) => secrets::secrets(config, command).await,
        Command::Reaper(args) => jobs::reap(&App::open(config).await?, &args).await,
        Command::Migrate => jobs::migrate(&config).await,
        Command::Serve(args) => serve::serve(App::open(config).await?, &args).await,
        Command::InitConfig(_) => unreachable!("handled above"),
    }
}
