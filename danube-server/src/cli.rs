//! The command line: what can be typed, and nothing of what it does.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use danube_core::{ArtifactName, StepName};

/// Runs jobs and keeps everything they produce: the log, live and for later; the artifacts, signed,
/// with provenance; the secrets, never shown.
#[derive(Parser)]
#[command(name = "danube", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    /// Where everything is kept [default: /var/lib/danube as root, else $XDG_DATA_HOME/danube]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "DANUBE_DATA_DIR",
        hide_env_values = true
    )]
    pub(crate) data_dir: Option<PathBuf>,

    /// The configuration file [default: /etc/danube/danube.toml as root, else
    /// $XDG_CONFIG_HOME/danube/danube.toml; it need not exist]
    #[arg(long, global = true, value_name = "FILE", env = "DANUBE_CONFIG", hide_env_values = true)]
    pub(crate) config: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done (of `run`: the job passed), 1 no (the job failed, nothing of that name, not \
verified), 2 wrong usage, 3 the job was cancelled, 4 the job timed out, 5 infrastructure (disk, \
database, keys, a job without an honest verdict).";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run a job here: one command, or the steps of a file
    Run(Box<RunArgs>),
    /// List jobs, newest first
    Jobs(JobsArgs),
    /// Ask a running job to end
    Cancel(CancelArgs),
    /// Print a job's log
    Logs(LogsArgs),
    /// List a job's artifacts, fetch, add, tag and delete them
    #[command(subcommand)]
    Artifacts(ArtifactsCommand),
    /// Check a file's signature and provenance; works offline
    VerifyArtifact(VerifyArgs),
    /// Delete logs and artifacts whose time has come
    Reaper(ReaperArgs),
    /// Bring the database to the schema of this version
    Migrate,
    /// Write a configuration file with every setting and its default
    InitConfig(InitConfigArgs),
    /// Serve jobs, logs and artifacts over HTTP on this machine
    Serve(ServeArgs),
}

/// How lists are printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// For programs: the body that the HTTP API gives for the same thing
    Json,
}

#[derive(Args)]
#[command(
    override_usage = "danube run [OPTIONS] -- COMMAND [ARG]...\n       danube run [OPTIONS] FILE.yaml"
)]
pub(crate) struct RunArgs {
    /// A job file: name, env, secrets, timeout, steps, artifacts, retention_days
    #[arg(value_name = "FILE.yaml", conflicts_with_all = ["command", "step"], required_unless_present = "command")]
    pub(crate) file: Option<PathBuf>,

    /// The command of a job with one step; it is not given to a shell
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,

    /// The name of that step
    #[arg(long, value_name = "NAME", default_value = "run")]
    pub(crate) step: StepName,

    /// Keep the files below the work directory that match, if the job passes (repeatable)
    #[arg(long = "artifact", value_name = "GLOB")]
    pub(crate) artifacts: Vec<String>,

    /// Set an environment variable (repeatable)
    #[arg(long = "env", value_name = "K=V", value_parser = parse_pair)]
    pub(crate) env: Vec<(String, String)>,

    /// Set an environment variable to what a file holds, and mask it in the output (repeatable)
    #[arg(long = "secret", value_name = "K=FILE", value_parser = parse_pair)]
    pub(crate) secrets: Vec<(String, String)>,

    /// End the job after this long: 90s, 10m, 1h30m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,

    /// Return at once and print the job's id alone; the job goes on
    #[arg(long)]
    pub(crate) detach: bool,

    /// How the summary is printed; with json it stands alone on stdout and the log goes to stderr
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,

    /// The id that a detached run was promised
    #[arg(long, hide = true)]
    pub(crate) detached_as: Option<danube_core::JobId>,
}

#[derive(Args)]
pub(crate) struct JobsArgs {
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) limit: u16,
    /// How the list is printed
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Args)]
pub(crate) struct CancelArgs {
    /// An id, the beginning or end of one, or `latest`
    pub(crate) job: String,
}

#[derive(Args)]
pub(crate) struct LogsArgs {
    /// An id, the beginning or end of one, or `latest`
    pub(crate) job: String,
    /// Go on with what is written, until the job ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the last N lines of what there is
    #[arg(long, value_name = "N")]
    pub(crate) tail: Option<usize>,
    /// Only the lines of one step
    #[arg(long, value_name = "NAME")]
    pub(crate) step: Option<StepName>,
    /// The exact bytes to a terminal too; without it control characters are made safe there
    #[arg(long)]
    pub(crate) raw: bool,
}

#[derive(Subcommand)]
pub(crate) enum ArtifactsCommand {
    /// List the artifacts of a job
    List {
        /// An id, the beginning or end of one, or `latest`
        job: String,
        /// How the list is printed
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Write an artifact of a job to a file
    Get {
        /// An id, the beginning or end of one, or `latest`
        job: String,
        /// The artifact's name, as the list shows it
        name: String,
        /// Where to; `-` is standard output [default: its file name, in this directory]
        #[arg(long, short = 'O', value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Add a file to a job's artifacts, and sign it; the job's provenance does not name it
    Put(PutArgs),
    /// Change the tags of an artifact, and how long it is kept
    Tag(TagArgs),
    /// Delete an artifact of a job, or all of them
    Delete {
        /// An id, the beginning or end of one, or `latest`
        job: String,
        /// The artifact's name, as the list shows it
        #[arg(required_unless_present = "all")]
        name: Option<ArtifactName>,
        /// All of them but those that are kept for ever
        #[arg(long, conflicts_with = "name")]
        all: bool,
    },
}

#[derive(Args)]
pub(crate) struct PutArgs {
    /// An id, the beginning or end of one, or `latest`
    pub(crate) job: String,
    /// The file
    pub(crate) file: PathBuf,
    /// What the artifact is called [default: its file name]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<ArtifactName>,
    /// Go on with the upload of this artifact that was interrupted
    #[arg(long)]
    pub(crate) resume: bool,
    /// Replace an artifact of that name
    #[arg(long)]
    pub(crate) replace: bool,
    /// Its media type [default: what its first bytes and its name tell]
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    #[command(flatten)]
    pub(crate) tags: TagOptions,
}

#[derive(Args)]
pub(crate) struct TagArgs {
    /// An id, the beginning or end of one, or `latest`
    pub(crate) job: String,
    /// The artifact's name, as the list shows it
    pub(crate) name: ArtifactName,
    #[command(flatten)]
    pub(crate) tags: TagOptions,
    /// Take this tag away (repeatable)
    #[arg(long, value_name = "KEY")]
    pub(crate) remove: Vec<String>,
    /// Let retention apply to it again
    #[arg(long, conflicts_with = "keep_forever")]
    pub(crate) let_go: bool,
}

#[derive(Args)]
pub(crate) struct TagOptions {
    /// Give it this tag (repeatable)
    #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(crate) tags: Vec<(String, String)>,
    /// Keep it that long instead of the configured time: 12h, 90d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) keep_for: Option<Duration>,
    /// Keep it until somebody deletes it
    #[arg(long)]
    pub(crate) keep_forever: bool,
}

#[derive(Args)]
pub(crate) struct VerifyArgs {
    /// The file
    pub(crate) path: PathBuf,
    /// The public key (PEM) to trust [default: the keys in the data directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) public_key: Option<PathBuf>,
    /// The provenance (provenance.json or provenance.dsse.json) [default: looked for beside and above]
    #[arg(long, value_name = "FILE")]
    pub(crate) provenance: Option<PathBuf>,
    /// The raw signature [default: PATH.sig, then .danube/ upwards]
    #[arg(long, value_name = "FILE")]
    pub(crate) signature: Option<PathBuf>,
    /// Be content with the signature; say nothing about where the file came from
    #[arg(long, conflicts_with = "provenance")]
    pub(crate) signature_only: bool,
    /// The job that it must have come from
    #[arg(long, value_name = "JOB")]
    pub(crate) job: Option<danube_core::JobId>,
}

#[derive(Args)]
pub(crate) struct ReaperArgs {
    /// Print what would be deleted, and delete nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How the list is printed
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Args)]
pub(crate) struct InitConfigArgs {
    /// Where to [default: where this user's configuration is looked for]
    pub(crate) path: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct ServeArgs {
    /// The port on 127.0.0.1; 0 takes a free one
    #[arg(long)]
    pub(crate) port: Option<u16>,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("must be NAME=VALUE".to_owned()),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    danube_engine::parse_duration(text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_job_is_a_command_or_a_file_and_never_both_or_neither() {
        let parse = |words: &[&str]| Cli::try_parse_from(words);
        assert!(parse(&["danube", "run", "--", "true"]).is_ok());
        assert!(parse(&["danube", "run", "job.yaml"]).is_ok());
        assert!(parse(&["danube", "run"]).is_err());
        assert!(parse(&["danube", "run", "job.yaml", "--", "true"]).is_err());
        assert!(parse(&["danube", "run", "--env", "NOVALUE", "--", "true"]).is_err());
        assert!(parse(&["danube", "run", "--timeout", "soon", "--", "true"]).is_err());
    }
}
