//! The command line: what can be typed, and nothing of what it does.

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use danube_artifacts::ArtifactKind;
use danube_artifacts::collect::Preset;
use danube_core::{ArtifactName, ByteRange, Sha256Digest, StepName, Timestamp};
use danube_engine::CollectWhen;
use danube_secrets::{SecretKey, SecretOwner};

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
    /// List a job's artifacts, fetch, add, tag, archive and delete them
    #[command(subcommand)]
    Artifacts(ArtifactsCommand),
    /// List, rotate and revoke the signing keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Check a file's signature and provenance; works offline
    VerifyArtifact(VerifyArgs),
    /// Keep secrets sealed, for jobs to use
    #[command(subcommand)]
    Secrets(SecretsCommand),
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

    /// Keep the files that a named set of globs matches; `data`: *.csv *.json *.html *.png *.pdf *report*
    /// *analysis* *output*
    #[arg(long, value_name = "NAME")]
    pub(crate) artifact_preset: Option<Preset>,

    /// Keep none of the files, and nothing below the directories, that match (repeatable)
    #[arg(long, value_name = "GLOB")]
    pub(crate) artifact_exclude: Vec<String>,

    /// After which end files are kept: `success`, or `always`, also when the job fails, times out or is
    /// cancelled; they are signed then, without provenance [default: success]
    #[arg(long, value_name = "WHEN")]
    pub(crate) collect: Option<CollectWhen>,

    /// Set an environment variable (repeatable)
    #[arg(long = "env", value_name = "K=V", value_parser = parse_pair)]
    pub(crate) env: Vec<(String, String)>,

    /// Set an environment variable to what a file holds, and mask it in the output (repeatable).
    /// K alone, or K=vault:NAME, takes a stored secret; K=sealed:… opens a sealed one
    #[arg(long = "secret", value_name = "K=FILE", value_parser = parse_secret)]
    pub(crate) secrets: Vec<(String, String)>,

    /// Whose stored and sealed secrets the job may use
    #[arg(long, value_name = "OWNER", default_value = DEFAULT_OWNER)]
    pub(crate) owner: SecretOwner,

    /// The repository that is built, for the provenance: `git+https://git.example.com/a/b` [default: `origin`
    /// of the git work tree of this directory, with its commit and branch, if nothing in it is uncommitted]
    #[arg(long, value_name = "URL", requires = "commit")]
    pub(crate) repository: Option<String>,

    /// The commit that is built, in full
    #[arg(long, value_name = "SHA", requires = "repository")]
    pub(crate) commit: Option<String>,

    /// The branch that it was taken from
    #[arg(long, value_name = "NAME", requires = "commit")]
    pub(crate) branch: Option<String>,

    /// Do not look for a git work tree: the provenance names no source
    #[arg(long, conflicts_with = "repository")]
    pub(crate) no_source: bool,

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
    /// Only from line N of the log on; the first one is 1
    #[arg(long, value_name = "N", conflicts_with = "tail")]
    pub(crate) line: Option<NonZeroU64>,
    /// Only what was written since: a time like `2024-01-06T12:00:00Z`, or how long ago, like `10m`
    #[arg(long, value_name = "TIME", value_parser = parse_since, conflicts_with_all = ["tail", "line"])]
    pub(crate) since: Option<Since>,
    /// Only the lines of one step
    #[arg(long, value_name = "NAME")]
    pub(crate) step: Option<StepName>,
    /// The exact bytes to a terminal too; without it control characters are made safe there
    #[arg(long)]
    pub(crate) raw: bool,
    /// Leave colours and other escape sequences out
    #[arg(long, conflicts_with = "raw")]
    pub(crate) strip: bool,
    /// One JSON object per line, with time, level, message and place
    #[arg(long, conflicts_with = "raw")]
    pub(crate) json: bool,
    /// Only the lines whose content matches this regular expression; exit 1 if there are none
    #[arg(long, value_name = "PATTERN", conflicts_with_all = ["tail", "line", "since"])]
    pub(crate) grep: Option<String>,
    /// The pattern is a text, not a regular expression
    #[arg(short = 'F', long, requires = "grep")]
    pub(crate) fixed: bool,
    /// Upper and lower case are the same
    #[arg(short, long, requires = "grep")]
    pub(crate) ignore_case: bool,
    /// Also N lines before and after each that matches
    #[arg(short = 'C', long, value_name = "N", default_value_t = 0, requires = "grep", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub(crate) context: u16,
    /// Only how many lines match
    #[arg(short, long, requires = "grep", conflicts_with_all = ["follow", "json"])]
    pub(crate) count: bool,
    /// Their numbers in front of them
    #[arg(short = 'n', long, requires = "grep")]
    pub(crate) line_number: bool,
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
    /// Print what is known about an artifact
    #[command(override_usage = WHICH_USAGE[0])]
    Info {
        #[command(flatten)]
        which: Which,
        /// How it is printed
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Write an artifact of a job to a file, or unpack it
    #[command(override_usage = WHICH_USAGE[1])]
    Get {
        #[command(flatten)]
        which: Which,
        /// Where to; `-` is standard output [default: its file name, in this directory]
        #[arg(long, short = 'O', value_name = "FILE")]
        to: Option<PathBuf>,
        /// Unpack the tar.gz that it is into this directory, which is made; one that wants to harm is refused
        #[arg(long, value_name = "DIR", conflicts_with = "to")]
        unpack: Option<PathBuf>,
    },
    /// Move an artifact to where keeping it costs least; it is read again after a restore
    Archive {
        /// An id, the beginning or end of one, or `latest`
        job: String,
        /// The artifact's name, as the list shows it
        name: ArtifactName,
        /// Only to where it costs less and is read at once
        #[arg(long)]
        warm: bool,
    },
    /// Have an archived artifact made readable, which may take hours
    Restore {
        /// An id, the beginning or end of one, or `latest`
        job: String,
        /// The artifact's name, as the list shows it
        name: ArtifactName,
        /// For how long, in whole days
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration, default_value = "7d")]
        keep_for: Duration,
        /// Bring it back for good, as soon as it is readable
        #[arg(long)]
        for_good: bool,
    },
    /// Print the provenance of a job
    Provenance {
        /// An id, the beginning or end of one, or `latest`
        job: String,
        /// What of it
        #[arg(long, value_enum, default_value = "statement")]
        format: ProvenanceFormat,
    },
    /// Pack a directory as a tar.gz; the same tree gives the same bytes
    Pack {
        /// The directory
        dir: PathBuf,
        /// The archive to be written; it must not exist, nor lie in the directory
        #[arg(value_name = "FILE.tar.gz")]
        file: PathBuf,
    },
    /// Unpack a tar.gz; one that wants to harm is refused, and then nothing of it stays
    Unpack {
        /// The archive
        #[arg(value_name = "FILE.tar.gz")]
        file: PathBuf,
        /// The directory to be made
        dir: PathBuf,
    },
    /// Add a file, or a directory as a tar.gz, to a job's artifacts, and sign it; the job's provenance does not name it
    Put(PutArgs),
    /// Print a link: a URL by which anybody may get one artifact, or put one, until it expires
    Url(UrlArgs),
    /// Record and sign what was put by a link; the job's provenance does not name it
    Adopt(AdoptArgs),
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
    /// The bucket that artifacts are kept in, as `[artifacts.s3]` of the configuration names it
    #[command(subcommand)]
    S3(S3Command),
}

#[derive(Subcommand)]
pub(crate) enum S3Command {
    /// Give the bucket its lifecycle rules and CORS; the rules of others stay as they are
    Setup {
        /// Print what would change, and change nothing
        #[arg(long, required_unless_present = "apply")]
        dry_run: bool,
        /// Change it
        #[arg(long, conflicts_with = "dry_run")]
        apply: bool,
        /// How the rules are printed
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Print the policy (JSON) that lets Danube do what it does in the bucket, and nothing else
    Policy {
        /// A policy of the bucket, for this ARN, or for the role `claude-agent-role` of this account
        /// [default: without one, to be attached to a role]
        #[arg(long, value_name = "ARN|ACCOUNT")]
        principal: Option<String>,
        /// What `setup` needs, instead of what jobs need
        #[arg(long)]
        setup: bool,
    },
}

const WHICH_USAGE: [&str; 2] = [
    "danube artifacts info [OPTIONS] JOB NAME\n       danube artifacts info [OPTIONS] ID",
    "danube artifacts get [OPTIONS] JOB NAME\n       danube artifacts get [OPTIONS] ID",
];

/// One artifact: by job and name, or by its own id.
#[derive(Args)]
pub(crate) struct Which {
    /// A job: its id, the beginning or end of it, or `latest`; or the id of the artifact, and no name
    #[arg(value_name = "JOB")]
    pub(crate) job_or_id: String,
    /// The artifact's name, as the list shows it
    pub(crate) name: Option<ArtifactName>,
}

#[derive(Args)]
pub(crate) struct PutArgs {
    /// An id, the beginning or end of one, or `latest`
    pub(crate) job: String,
    /// The file, or a directory: the same tree gives the same archive
    pub(crate) file: PathBuf,
    /// What the artifact is called [default: its file name, of a directory with `.tar.gz` at the end]
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
    /// What sort of thing it is: code, document, image, data, log, other [default: what its name and media type tell]
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<ArtifactKind>,
    #[command(flatten)]
    pub(crate) tags: TagOptions,
}

#[derive(Args)]
pub(crate) struct UrlArgs {
    /// An id, the beginning or end of one, or `latest`
    pub(crate) job: String,
    /// The artifact's name
    pub(crate) name: ArtifactName,
    /// Put a new artifact of this name, instead of getting the one that is there; adopt it then
    #[arg(long)]
    pub(crate) put: bool,
    /// How long it holds: 1s to 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "15m")]
    pub(crate) expires: Duration,
    /// Get only the bytes A to B, B included; the first one is 0
    #[arg(long, value_name = "A-B", value_parser = parse_range, conflicts_with = "put")]
    pub(crate) range: Option<ByteRange>,
    /// Put exactly so many bytes
    #[arg(long, value_name = "N", requires = "put")]
    pub(crate) size: Option<u64>,
    /// Put only what has this SHA-256
    #[arg(long, value_name = "HEX", requires = "put")]
    pub(crate) sha256: Option<Sha256Digest>,
    /// How it is printed: the URL and then the headers that the request must have, or all of it as JSON
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Args)]
pub(crate) struct AdoptArgs {
    /// An id, the beginning or end of one, or `latest`
    pub(crate) job: String,
    /// The name that it was put under
    pub(crate) name: ArtifactName,
    /// Only if it has exactly this size
    #[arg(long, value_name = "N")]
    pub(crate) size: Option<u64>,
    /// Only if it has this SHA-256
    #[arg(long, value_name = "HEX")]
    pub(crate) sha256: Option<Sha256Digest>,
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

#[derive(Subcommand)]
pub(crate) enum KeysCommand {
    /// List the signing keys: the current one, old ones, revoked ones
    List,
    /// Make a new key the current one; what the old one signed still verifies
    Rotate,
    /// Trust an old key no more: what it signed does not verify any longer
    Revoke {
        /// Its id, as the list shows it
        id: String,
    },
}

/// In which file format a provenance is printed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProvenanceFormat {
    /// The statement, to read
    Statement,
    /// The signed DSSE envelope
    Envelope,
    /// The same as a Sigstore bundle v0.3
    Bundle,
}

#[derive(Args)]
pub(crate) struct VerifyArgs {
    /// The file; with --server the artifact's name
    #[arg(required_unless_present_all = ["server", "log"])]
    pub(crate) path: Option<PathBuf>,
    /// Fetch the artifact (or, with --log, the log) of --job from this server: http://127.0.0.1:8080.
    /// The key is never fetched
    #[arg(long, value_name = "URL", requires = "job", conflicts_with_all = ["provenance", "signature", "signature_only"])]
    pub(crate) server: Option<http::Uri>,
    /// The public key (PEM) to trust [default: the keys in the data directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) public_key: Option<PathBuf>,
    /// The provenance (provenance.json or provenance.dsse.json) [default: looked for beside and above]
    #[arg(long, value_name = "FILE")]
    pub(crate) provenance: Option<PathBuf>,
    /// The raw signature [default: PATH.sig, then .danube/signatures/ upwards]
    #[arg(long, value_name = "FILE")]
    pub(crate) signature: Option<PathBuf>,
    /// Be content with the signature; say nothing about where the file came from
    #[arg(long, conflicts_with = "provenance")]
    pub(crate) signature_only: bool,
    /// PATH is the log of a job (JOB.log or JOB.log.zst), which its provenance binds
    #[arg(long, conflicts_with_all = ["signature", "signature_only"])]
    pub(crate) log: bool,
    /// The job that it must have come from
    #[arg(long, value_name = "JOB")]
    pub(crate) job: Option<danube_core::JobId>,
    /// The name that it must have been kept under
    #[arg(long, value_name = "NAME", conflicts_with = "log")]
    pub(crate) name: Option<danube_core::ArtifactName>,
    /// The repository that it must have been built from
    #[arg(long, value_name = "URL")]
    pub(crate) repository: Option<String>,
    /// The commit that it must have been built from, in full
    #[arg(long, value_name = "SHA")]
    pub(crate) commit: Option<String>,
}

#[derive(Subcommand)]
pub(crate) enum SecretsCommand {
    /// Store a secret, or replace it; the value comes from standard input or a file
    Set {
        #[command(flatten)]
        secret: SecretArgs,
    },
    /// List the names of stored secrets
    List {
        /// Only those of one owner
        #[arg(long, value_name = "OWNER")]
        owner: Option<SecretOwner>,
        /// How the list is printed
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Delete a stored secret
    Delete {
        /// Its name
        key: SecretKey,
        /// Whose it is
        #[arg(long, value_name = "OWNER", default_value = DEFAULT_OWNER)]
        owner: SecretOwner,
    },
    /// Make a new encryption key and seal every stored secret with it
    Rotate,
    /// Seal a value to the public key: text that is safe in a public repository
    Seal {
        #[command(flatten)]
        secret: SecretArgs,
        /// The public key, or a file that holds it [default: that of the data directory]
        #[arg(long, value_name = "KEY|FILE")]
        public_key: Option<String>,
    },
    /// Print the public key that values are sealed to
    PublicKey,
    /// List who touched which secret, newest first
    Audit {
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// How the list is printed
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
}

/// Whose secrets they are where nobody says.
const DEFAULT_OWNER: &str = "default";

#[derive(Args)]
pub(crate) struct SecretArgs {
    /// Its name: that of an environment variable
    pub(crate) key: SecretKey,
    /// Whose it is
    #[arg(long, value_name = "OWNER", default_value = DEFAULT_OWNER)]
    pub(crate) owner: SecretOwner,
    /// Where the value is read from; one line feed at its end is dropped [default: standard input]
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
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

/// The beginning of what is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// A moment.
    Time(Timestamp),
    /// So long before now.
    Ago(Duration),
}

fn parse_since(text: &str) -> Result<Since, String> {
    if let Ok(time) = text.parse() {
        return Ok(Since::Time(time));
    }
    parse_duration(text).map(Since::Ago).map_err(|_| {
        "must be a time like 2024-01-06T12:00:00Z, or how long ago, like 90s, 10m or 2h".to_owned()
    })
}

/// `K=FILE`, `K=vault:NAME`, `K=sealed:…`, or `K` for `K=vault:K`.
fn parse_secret(text: &str) -> Result<(String, String), String> {
    if text.contains('=') {
        parse_pair(text)
    } else {
        Ok((text.to_owned(), format!("vault:{text}")))
    }
}

/// `A-B` with the last byte, as HTTP writes it.
fn parse_range(text: &str) -> Result<ByteRange, String> {
    let range = text.split_once('-').and_then(|(first, last)| {
        Some(ByteRange::new(first.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?))
    });
    range
        .filter(|range| !range.is_empty())
        .ok_or_else(|| "must be the first and the last byte, like 0-499".to_owned())
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
    fn since_is_a_moment_or_how_long_ago() {
        let moment = "2024-01-06T12:00:00.5Z".parse().unwrap();
        assert_eq!(parse_since("2024-01-06T12:00:00.5Z"), Ok(Since::Time(moment)));
        assert_eq!(parse_since("2024-01-06T14:00:00.5+02:00"), Ok(Since::Time(moment)));
        assert_eq!(parse_since("10m"), Ok(Since::Ago(Duration::from_secs(600))));
        for wrong in ["", "yesterday", "12:00", "2024-01-06", "10"] {
            assert!(parse_since(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_range_has_a_first_and_a_last_byte() {
        assert_eq!(parse_range("0-499"), Ok(ByteRange::new(0, 500)));
        assert_eq!(parse_range("7-7"), Ok(ByteRange::new(7, 8)));
        for wrong in ["", "-", "5", "5-", "-5", "5-4", "a-b", "0-18446744073709551615"] {
            assert!(parse_range(wrong).is_err(), "{wrong}");
        }
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

    #[test]
    fn a_secrets_value_is_no_argument() {
        let parse = |words: &[&str]| Cli::try_parse_from(words);
        assert!(parse(&["danube", "secrets", "set", "TOKEN"]).is_ok());
        assert!(parse(&["danube", "secrets", "set", "TOKEN", "hunter2"]).is_err());
        assert!(parse(&["danube", "secrets", "set", "TOKEN=hunter2"]).is_err());
        assert!(parse(&["danube", "secrets", "seal", "TOKEN", "hunter2"]).is_err());
    }
}
