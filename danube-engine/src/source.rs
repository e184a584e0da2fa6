//! What is built, as the git work tree says in which a job runs.
//!
//! The tree is not trusted: nothing that it brings along is run, neither hooks nor a file system monitor nor
//! filters nor transports, and a tree that belongs to somebody else is refused by git itself. What its
//! `.git` says is believed all the same: the address of `origin`, and that the files are those of the
//! commit. Nobody asks the repository whether it has the commit.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use danube_artifacts::attest::Source;
use danube_secrets::MASK;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader, copy, sink};
use tokio::process::Command;
use tokio::task::spawn_blocking;

use crate::address::without_credentials;
use crate::duration::shortened;

#[cfg(test)]
mod tests;

/// How long git may take in all: it looks at every file once.
const LIMIT: Duration = Duration::from_secs(20);

/// The most that is read of what git answers: a configuration is a few kilobytes.
const MAX_ANSWER: u64 = 1024 * 1024;

/// The most characters that are repeated of what git complains about.
const MAX_SAID: usize = 200;

/// The longest address of a repository.
const MAX_ADDRESS: usize = 2048;

/// What is done before any git runs.
const LOOKING: &str = "cannot be looked for";

/// The variables that say where the user's own configuration is, which says what is ignored and which
/// directories are safe.
const USERS_OWN: [&str; 2] = ["HOME", "XDG_CONFIG_HOME"];

/// What every call says first. What a repository configures is overruled here, as far as it would run something
/// or write, and what cannot be is looked for in [`runs_a_program`].
const SAFELY: &[&str] = &[
    "--no-optional-locks",
    "--no-replace-objects",
    "--no-pager",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "protocol.allow=never",
    "-c",
    "safe.bareRepository=explicit",
    "-c",
    "submodule.recurse=false",
];

/// A git work tree that is just what a commit says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkout {
    /// The address of `origin` without passwords and tokens, the commit, and the branch if there is one. An address
    /// with a scheme is written as SLSA asks: `git+https://…`.
    pub source: Source,
    /// The directory of the tree, without symbolic links.
    pub root: PathBuf,
}

/// Why nothing is said about the source although there is a git work tree.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Something would be built that no commit holds.
    #[error("the work tree has changes that are not committed")]
    Changed,
    /// The work tree has submodules, at whose files nobody looks.
    #[error("the work tree has submodules, whose state is not looked at")]
    Submodules,
    /// Nothing was committed yet.
    #[error("nothing is committed yet")]
    NoCommit,
    /// The commit has no file in this directory, which only lies in the work tree.
    #[error("the commit has no file below {}", dir.display())]
    NotInCommit {
        /// The directory.
        dir: PathBuf,
    },
    /// There is no remote called `origin`.
    #[error("there is no remote called origin")]
    NoOrigin,
    /// The address of `origin` is none that can be told.
    #[error("the address of origin cannot be told: it {rule}")]
    Address {
        /// The rule that it breaks, as a sentence about it.
        rule: &'static str,
    },
    /// To compare files git would run a program that the repository names, and that nobody trusts.
    #[error("the repository has git run a program of its own ({key}), which is not done")]
    RunsPrograms {
        /// Where its configuration says so.
        key: String,
    },
    /// There is no `git` along the `PATH`.
    #[error("there is no git along the PATH")]
    NoGit,
    /// It took too long.
    #[error("git took longer than {} s", LIMIT.as_secs())]
    Late,
    /// git could not be run or said no.
    #[error("git {operation}: {said}")]
    Git {
        /// What was asked.
        operation: &'static str,
        /// Its words, or the system's.
        said: String,
    },
}

impl Checkout {
    /// Looks whether a directory lies in a git work tree, and what that was made from; `None` where it does not.
    ///
    /// Changed files, and new ones that are not ignored, are a [`SourceError::Changed`]: the commit would be a
    /// claim about something else. Of `env`, the variables of whoever asks, git gets `PATH`, `HOME` and
    /// `XDG_CONFIG_HOME`; what is relative in `PATH` is passed over, and so are the others when they lie in the tree.
    /// It writes nothing and asks no network. git must be 2.26 or newer; of an older one that is an error.
    ///
    /// # Errors
    ///
    /// [`SourceError`]: there is a work tree, and this is why it is no source.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it kills the git that runs.
    pub async fn of(dir: &Path, env: &[(OsString, OsString)]) -> Result<Option<Self>, SourceError> {
        let (dir, env) = (dir.to_owned(), env.to_owned());
        let looking = spawn_blocking(move || Git::look_for(&dir, &env)).await;
        let failed = |e: tokio::task::JoinError| git_failed(LOOKING, e.into());
        let Some(git) = looking.map_err(failed)?? else { return Ok(None) };
        let looked = tokio::time::timeout(LIMIT, git.checkout()).await;
        looked.unwrap_or(Err(SourceError::Late)).map(Some)
    }
}

/// git in one directory.
struct Git {
    program: PathBuf,
    env: Vec<(OsString, OsString)>,
    dir: PathBuf,
}

/// What git answered.
struct Answer {
    is_yes: bool,
    stdout: Vec<u8>,
    /// The first line that it complained with.
    said: String,
}

impl Git {
    /// The git for a directory, if that lies in anything that may be a work tree.
    fn look_for(dir: &Path, env: &[(OsString, OsString)]) -> Result<Option<Self>, SourceError> {
        let dir = dir.canonicalize().map_err(|e| git_failed(LOOKING, e))?;
        let is_tree = |dir: &&Path| dir.join(".git").symlink_metadata().is_ok();
        let Some(outermost) = dir.ancestors().filter(is_tree).last() else { return Ok(None) };
        let path = absolute_path(env);
        let program = program("git", &path).ok_or(SourceError::NoGit)?;
        // A configuration that lies in the tree is the tree's and not its user's.
        let is_apart = |path: &OsStr| {
            Path::new(path).canonicalize().is_ok_and(|path| !path.starts_with(outermost))
        };
        let of_user = env
            .iter()
            .filter(|(name, value)| USERS_OWN.iter().any(|own| name == own) && is_apart(value));
        let env = of_user.cloned().chain([("PATH".into(), path)]).collect();
        Ok(Some(Self { program, env, dir }))
    }

    async fn checkout(&self) -> Result<Checkout, SourceError> {
        let root = self.yes("finds no work tree", &["rev-parse", "--show-toplevel"]).await?;
        let root = PathBuf::from(OsString::from_vec(root));
        let operation = "cannot read its configuration";
        let config = self.yes(operation, &["config", "--list", "--show-scope", "-z"]).await?;
        if config.len() as u64 >= MAX_ANSWER {
            let said = format!("it has more than {MAX_ANSWER} bytes");
            return Err(SourceError::Git { operation, said });
        }
        let settings = settings(&config);
        if let Some(key) = settings.iter().find_map(runs_a_program) {
            return Err(SourceError::RunsPrograms { key: shortened(&key) });
        }
        let origin = settings.iter().rfind(|setting| setting.key == b"remote.origin.url");
        let repository = address(origin.ok_or(SourceError::NoOrigin)?.value)?;

        let head = self.ask(&["rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).await?;
        if !head.is_yes {
            return Err(SourceError::NoCommit);
        }
        let commit = String::from_utf8_lossy(&head.stdout).into_owned();
        let here = format!("{commit}:./");
        if !self.ask(&["rev-parse", "--verify", "--quiet", &here]).await?.is_yes {
            return Err(SourceError::NotInCommit { dir: self.dir.clone() });
        }
        let branch = self.ask(&["symbolic-ref", "--quiet", "HEAD"]).await?;
        let branch = String::from_utf8(branch.stdout).ok();
        let branch = branch.and_then(|name| name.strip_prefix("refs/heads/").map(str::to_owned));

        let modules = root.join(".gitmodules");
        let has_modules = spawn_blocking(move || modules.symlink_metadata().is_ok()).await;
        if has_modules.unwrap_or(true) || self.holds_repositories().await? {
            return Err(SourceError::Submodules);
        }
        let status = [
            "status",
            "--porcelain=v1",
            "-z",
            "--untracked-files=normal",
            "--ignore-submodules=dirty",
            "--no-renames",
        ];
        if !self.yes("cannot compare the files", &status).await?.is_empty() {
            return Err(SourceError::Changed);
        }
        let source = Source::new(repository, commit);
        let source = branch.into_iter().fold(source, Source::with_branch);
        let refused = |e: danube_artifacts::Error| SourceError::Git {
            operation: "named a commit that is none",
            said: e.to_string(),
        };
        source.validate().map_err(refused)?;
        Ok(Checkout { source, root })
    }

    /// What it answers, where it must not say no.
    async fn yes(&self, operation: &'static str, args: &[&str]) -> Result<Vec<u8>, SourceError> {
        let Answer { is_yes, stdout, said } = self.ask(args).await?;
        if is_yes { Ok(stdout) } else { Err(SourceError::Git { operation, said }) }
    }

    /// Whether the tree names commits of other repositories: those are submodules without a `.gitmodules` too, which
    /// is what adding a directory with a repository in it makes.
    async fn holds_repositories(&self) -> Result<bool, SourceError> {
        let operation = "cannot list its files";
        let failed = |e| git_failed(operation, e);
        let mut listing = self.command(&["ls-files", "--stage", "-z", "--", ":/"]);
        let mut child = listing.stderr(Stdio::null()).spawn().map_err(failed)?;
        if let Some(stdout) = child.stdout.take() {
            let (mut listed, mut entry) = (BufReader::new(stdout), Vec::new());
            // `MODE OBJECT STAGE TAB PATH NUL`, again and again.
            while (&mut listed).take(MAX_ANSWER).read_until(0, &mut entry).await.map_err(failed)?
                > 0
            {
                if entry.starts_with(b"160000 ") {
                    return Ok(true);
                }
                entry.clear();
            }
        }
        match child.wait().await.map_err(failed)?.success() {
            true => Ok(false),
            false => Err(SourceError::Git { operation, said: "it says no".to_owned() }),
        }
    }

    /// git with these arguments, and with nothing of the tree's that it would run.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(SAFELY).args(args).current_dir(&self.dir).kill_on_drop(true);
        command.env_clear().envs(self.env.iter().cloned()).env("LC_ALL", "C");
        // Older versions of git know the last of these alone, and it is enough.
        command.env("GIT_OPTIONAL_LOCKS", "0").env("GIT_TERMINAL_PROMPT", "0");
        command.env("GIT_NO_LAZY_FETCH", "1").env("GIT_ALLOW_PROTOCOL", "");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Asks git, and takes one line feed from the end of its answer.
    async fn ask(&self, args: &[&str]) -> Result<Answer, SourceError> {
        let failed = |e| git_failed("cannot be run", e);
        let mut child = self.command(args).spawn().map_err(failed)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (stdout, stderr, status) = tokio::join!(read(stdout), read(stderr), child.wait());
        let (mut stdout, stderr, status) =
            (stdout.map_err(failed)?, stderr.map_err(failed)?, status.map_err(failed)?);
        if stdout.last() == Some(&b'\n') {
            stdout.pop();
        }
        let said = String::from_utf8_lossy(&stderr);
        let said = said.lines().next().unwrap_or("says nothing");
        let said = said.strip_prefix("fatal: ").unwrap_or(said).chars().take(MAX_SAID).collect();
        Ok(Answer { is_yes: status.success(), stdout, said })
    }
}

/// The beginning of a stream, and none of the rest, which is read all the same: who writes is not to wait.
async fn read(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        (&mut stream).take(MAX_ANSWER).read_to_end(&mut bytes).await?;
        copy(&mut stream, &mut sink()).await?;
    }
    Ok(bytes)
}

/// One setting of git.
struct Setting<'a> {
    scope: &'a [u8],
    key: &'a [u8],
    value: &'a [u8],
}

/// `SCOPE NUL KEY LF VALUE NUL`, again and again; a key without a value has no line feed.
fn settings(listed: &[u8]) -> Vec<Setting<'_>> {
    let mut parts = listed.split(|byte| *byte == 0);
    let mut settings = Vec::new();
    while let (Some(scope), Some(entry)) = (parts.next(), parts.next()) {
        let end = entry.iter().position(|byte| *byte == b'\n');
        let (key, value) = end.map_or((entry, &[][..]), |at| (&entry[..at], &entry[at + 1..]));
        settings.push(Setting { scope, key, value });
    }
    settings
}

/// The name of a setting by which the repository itself, and not its user, has programs run on files that are
/// compared. Such a filter cannot be overruled without knowing its name.
fn runs_a_program(setting: &Setting<'_>) -> Option<String> {
    let is_trusted = matches!(setting.scope, b"system" | b"global" | b"command");
    let is_filter = setting.key.starts_with(b"filter.")
        && (setting.key.ends_with(b".clean") || setting.key.ends_with(b".process"));
    (is_filter && !is_trusted).then(|| String::from_utf8_lossy(setting.key).into_owned())
}

/// The address of a repository as it is told to everybody.
fn address(value: &[u8]) -> Result<String, SourceError> {
    let refused = |rule| Err(SourceError::Address { rule });
    let Ok(text) = std::str::from_utf8(value) else { return refused("is not UTF-8") };
    if text.is_empty() || text.len() > MAX_ADDRESS {
        return refused("is empty or longer than 2048 bytes");
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return refused("holds white space or control characters");
    }
    let told = without_credentials(text);
    if told.ends_with(&format!("://{MASK}")) {
        return refused("cannot be told from a password in it");
    }
    let is_plain = ["https://", "http://", "ssh://", "git://", "file://"]
        .iter()
        .any(|scheme| told.starts_with(scheme));
    Ok(if is_plain { format!("git+{told}") } else { told })
}

/// The absolute directories of `PATH`: in a relative one an untrusted tree could have its own git.
fn absolute_path(env: &[(OsString, OsString)]) -> OsString {
    let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.as_bytes());
    let dirs = path.unwrap_or_default().split(|byte| *byte == b':');
    let absolute: Vec<_> = dirs.filter(|dir| dir.starts_with(b"/")).collect();
    OsString::from_vec(absolute.join(&b':'))
}

/// The first program of this name.
fn program(name: &str, path: &OsStr) -> Option<PathBuf> {
    let dirs = path.as_bytes().split(|byte| *byte == b':').filter(|dir| !dir.is_empty());
    let mut programs = dirs.map(|dir| Path::new(OsStr::from_bytes(dir)).join(name));
    programs.find(|program| {
        let meta = program.metadata();
        meta.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

fn git_failed(operation: &'static str, error: io::Error) -> SourceError {
    SourceError::Git { operation, said: error.to_string() }
}
