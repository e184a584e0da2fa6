//! `danube secrets`, and the stored and sealed secrets of a job.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use danube_core::{
    Audit, AuditAction, AuditActor, AuditEvent, AuditOutcome, ErrorClass, JobId, SecretBytes,
};
use danube_secrets::{
    Keyring, LoadedSecrets, Needles, PUBLIC_KEY_PREFIX, SEALED_PREFIX, SealingKey,
    SealingPublicKey, SecretKey, SecretOwner, SecretService, SecretServiceOptions, SecretVault,
    read_secret, read_secret_file,
};
use danube_store::{AuditLog, AuditQuery};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::app::App;
use crate::cli::{Output, SecretArgs, SecretsCommand};
use crate::config::Config;
use crate::failure::Failure;
use crate::jobs::print_json;
use crate::terminal::{self, Sink};
use crate::wire;

/// The longest file with a public key that is read.
const MAX_PUBLIC_KEY_BYTES: u64 = 4096;

/// What stands before the name of a stored secret.
const VAULT_PREFIX: &str = "vault:";

pub(crate) async fn secrets(config: Config, command: SecretsCommand) -> Result<u8, Failure> {
    match command {
        SecretsCommand::Set { secret } => set(&App::open(config).await?, secret).await,
        SecretsCommand::List { owner, output } => {
            list(&App::open(config).await?, owner, output).await
        }
        SecretsCommand::Delete { key, owner } => {
            delete(&App::open(config).await?, &owner, &key).await
        }
        SecretsCommand::Rotate => rotate(&App::open(config).await?).await,
        SecretsCommand::Seal { secret, public_key } => seal(&config, secret, public_key).await,
        SecretsCommand::PublicKey => {
            let public = public_key_of(&config).await?;
            Sink::Stdout.line(&public.to_string());
            Ok(0)
        }
        SecretsCommand::Audit { limit, output } => {
            audit(&App::open(config).await?, limit, output).await
        }
    }
}

async fn set(app: &App, args: SecretArgs) -> Result<u8, Failure> {
    let SecretArgs { key, owner, file } = args;
    let value = read_value(file).await?;
    // What could not be masked when a job uses it is refused while somebody is there to be told.
    Needles::check(&value)?;
    let keyring = Keyring::open_for(&app.keys_dir(), &*app.store).await?;
    let sealed = keyring.seal(&owner, &key, &value)?;
    drop(value);
    let object = format!("{owner}/{key}");
    audited(app, AuditAction::SecretSet, &object, app.store.put(&owner, &key, &sealed)).await?;
    Sink::Stderr.line(&format!("danube: stored {key} of {}", terminal::safe(owner.as_str())));
    Ok(0)
}

async fn list(app: &App, owner: Option<SecretOwner>, output: Output) -> Result<u8, Failure> {
    let mut secrets = Vec::new();
    let mut put = |owner: &SecretOwner, keys: Vec<SecretKey>| {
        secrets.extend(keys.into_iter().map(|key| wire::Secret::new(owner, &key)));
    };
    match owner {
        Some(owner) => put(&owner, SecretVault::list(&*app.store, &owner).await?),
        None => {
            let mut page = app.store.owners(None).await?;
            while let Some(last) = page.last().cloned() {
                for owner in &page {
                    put(owner, SecretVault::list(&*app.store, owner).await?);
                }
                page = app.store.owners(Some(&last)).await?;
            }
        }
    }
    match output {
        Output::Json => print_json(&wire::Secrets { secrets }),
        Output::Text if secrets.is_empty() => {
            Sink::Stderr.line("danube: no secrets; store one with: danube secrets set NAME");
        }
        Output::Text => {
            let row = |s: &wire::Secret| vec![terminal::safe(&s.owner), s.key.clone()];
            let rows: Vec<_> = secrets.iter().map(row).collect();
            Sink::Stdout.text(&terminal::table(&["OWNER", "NAME"], &rows));
        }
    }
    Ok(0)
}

async fn delete(app: &App, owner: &SecretOwner, key: &SecretKey) -> Result<u8, Failure> {
    let object = format!("{owner}/{key}");
    let work = async {
        if app.store.delete(owner, key).await? {
            return Ok(());
        }
        Err(danube_secrets::Error::NotFound { owner: owner.clone(), key: key.clone() })
    };
    audited(app, AuditAction::SecretDeleted, &object, work).await?;
    Sink::Stderr.line(&format!("danube: deleted {key} of {}", terminal::safe(owner.as_str())));
    Ok(0)
}

async fn rotate(app: &App) -> Result<u8, Failure> {
    let keyring = Arc::new(Keyring::open_for(&app.keys_dir(), &*app.store).await?);
    let work = keyring.rotate(&*app.store);
    let done = audited(app, AuditAction::SecretsRotated, "encryption.key", work).await?;
    for (owner, key) in &done.left_names {
        let owner = terminal::safe(owner.as_str());
        Sink::Stderr.line(&format!(
            "danube: left {key} of {owner} as it is: it does not open; set it again or delete it"
        ));
    }
    Sink::Stderr.line(&format!(
        "danube: the encryption key is {} now; {} sealed with it; older keys stay in {}, for copies of the \
         database",
        done.key_id,
        match done.resealed {
            1 => "1 secret was".to_owned(),
            n => format!("{n} secrets were"),
        },
        app.keys_dir().join("encryption").display()
    ));
    Ok(if done.left == 0 { 0 } else { 5 })
}

async fn seal(
    config: &Config,
    args: SecretArgs,
    public_key: Option<String>,
) -> Result<u8, Failure> {
    let SecretArgs { key, owner, file } = args;
    let public = match public_key {
        None => public_key_of(config).await?,
        Some(text) if text.starts_with(PUBLIC_KEY_PREFIX) => text.parse()?,
        Some(path) => public_key_in(Path::new(&path))?,
    };
    let value = read_value(file).await?;
    Needles::check(&value)?;
    Sink::Stdout.line(&public.seal(&owner, &key, &value)?);
    Ok(0)
}

async fn audit(app: &App, limit: u32, output: Output) -> Result<u8, Failure> {
    let events = app.store.events(&AuditQuery::default().with_limit(limit)).await?;
    match output {
        Output::Json => print_json(&wire::Events::from_records(events)),
        Output::Text if events.is_empty() => {
            Sink::Stderr.line("danube: nobody touched a secret yet")
        }
        Output::Text => {
            let rows: Vec<Vec<String>> = events
                .into_iter()
                .map(|record| {
                    let AuditEvent { at, actor, action, object, outcome } = record.event;
                    let object = terminal::safe(&object);
                    vec![
                        format!("{at:.0}"),
                        actor.to_string(),
                        action.to_string(),
                        object,
                        outcome.to_string(),
                    ]
                })
                .collect();
            let head = ["AT", "WHO", "WHAT", "SECRET", "OUTCOME"];
            Sink::Stdout.text(&terminal::table(&head, &rows));
        }
    }
    Ok(0)
}

/// Records what somebody at the command line does, then does it; that it failed is recorded too.
async fn audited<T>(
    app: &App,
    action: AuditAction,
    object: &str,
    work: impl Future<Output = Result<T, danube_secrets::Error>>,
) -> Result<T, Failure> {
    let record = async |outcome| {
        let actor = AuditActor::User(rustix::process::getuid().as_raw());
        let (at, object) = (app.clock.now(), object.to_owned());
        let event = AuditEvent { at, actor, action, object, outcome };
        app.store.record(&event).await.map_err(danube_secrets::Error::from)
    };
    record(AuditOutcome::Done).await?;
    match work.await {
        Ok(done) => Ok(done),
        Err(error) => {
            record(AuditOutcome::Refused).await?;
            Err(error.into())
        }
    }
}

async fn public_key_of(config: &Config) -> Result<SealingPublicKey, Failure> {
    App::create_dirs(config)?;
    let keys_dir = config.data_dir.join("keys");
    let opened = tokio::task::spawn_blocking(move || SealingKey::open_or_create(&keys_dir)).await;
    Ok(opened.expect("opening a key does not panic")?.public_key().clone())
}

fn public_key_in(path: &Path) -> Result<SealingPublicKey, Failure> {
    use std::io::Read;
    let failed = |e: std::io::Error| {
        Failure::invalid(format!("cannot read the public key {}: {e}", path.display()))
    };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_PUBLIC_KEY_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(text.trim().parse()?)
}

/// The value that a person or a program gives: from a file, or from standard input.
async fn read_value(file: Option<PathBuf>) -> Result<SecretBytes, Failure> {
    let read = tokio::task::spawn_blocking(move || match file {
        Some(path) => Ok(read_secret_file(&path)?),
        None => read_stdin(),
    });
    read.await.expect("reading does not panic").map_err(|failure: Failure| {
        // A file that somebody named and that is not there is wrong usage.
        Failure::invalid(failure.to_string())
    })
}

fn read_stdin() -> Result<SecretBytes, Failure> {
    // Not by way of `std::io::stdin`, whose buffer would keep a copy for as long as this process lives.
    let stdin = rustix::io::dup(rustix::stdio::stdin())
        .map_err(|e| Failure::io("cannot read standard input", &e.into()))?;
    let name = Path::new("standard input");
    let stdin = File::from(stdin);
    if !stdin.is_terminal() {
        return Ok(read_secret(stdin, name)?);
    }
    let terminal: OwnedFd = stdin.into();
    let quiet = Quiet::new(&terminal).map_err(|e| Failure::io("cannot hide what is typed", &e))?;
    Sink::Stderr.text("danube: type the value, it is not shown; then Enter: ");
    let line =
        File::from(rustix::io::dup(&terminal).map_err(|e| Failure::io("cannot read", &e.into()))?);
    let value = read_secret(OneLine { terminal: line, over: false }, name);
    drop(quiet);
    Sink::Stderr.text("\n");
    let value = value?;
    // Ctrl-C and Ctrl-\ arrive as they are while nothing is shown: the terminal must be given back first.
    if value.expose().iter().any(|byte| matches!(byte, 0x03 | 0x1c)) {
        return Err(Failure::invalid("interrupted: nothing was stored"));
    }
    Ok(value)
}

/// A terminal that shows nothing of what is typed, and is given back as it was.
struct Quiet<'a> {
    terminal: &'a OwnedFd,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn new(terminal: &'a OwnedFd) -> std::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        tcsetattr(terminal, OptionalActions::Flush, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

/// A terminal gives a line at a time; the first one is the value.
struct OneLine {
    terminal: File,
    over: bool,
}

impl std::io::Read for OneLine {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.over {
            return Ok(0);
        }
        let read = self.terminal.read(buffer)?;
        self.over = buffer[..read].contains(&b'\n');
        Ok(read)
    }
}

/// Where a job's secret comes from.
pub(crate) enum Source {
    /// Read already.
    Value(SecretBytes),
    /// The name of a stored one.
    Vault(SecretKey),
    /// Sealed text.
    Sealed(String),
}

impl Source {
    /// What somebody typed or wrote: `vault:NAME`, `sealed:…`, or the path of a file, which is read here.
    pub(crate) fn parse(text: &str) -> Result<Self, danube_secrets::Error> {
        if let Some(name) = text.strip_prefix(VAULT_PREFIX) {
            name.parse().map(Self::Vault)
        } else if text.starts_with(SEALED_PREFIX) {
            Ok(Self::Sealed(text.to_owned()))
        } else {
            read_secret_file(Path::new(text)).map(Self::Value)
        }
    }
}

/// What a job is given.
pub(crate) struct Given {
    /// The values of its secrets, in their order.
    pub(crate) values: Vec<(String, SecretBytes)>,
    /// The stored ones among them are loaded for the job, and counted, until this is dropped at its end.
    pub(crate) loaded: Option<LoadedSecrets>,
}

/// The secrets of a job. Stored ones are those of `owner`, and so are sealed ones, under the name of their
/// variable.
pub(crate) async fn resolve(
    app: &App,
    job: &JobId,
    owner: &SecretOwner,
    sources: Vec<(String, Source)>,
) -> Result<Given, Failure> {
    let wanted: Vec<SecretKey> = sources
        .iter()
        .filter_map(|(_, source)| match source {
            Source::Vault(key) => Some(key.clone()),
            _ => None,
        })
        .collect();
    let refused = |what: &str, error: danube_secrets::Error| {
        let failure = Failure::of(error.class(), &error);
        let hint = match &error {
            danube_secrets::Error::NotFound { key, .. } => {
                format!("; store it with: danube secrets set {key}")
            }
            _ => String::new(),
        };
        // Nothing ran: what the job asks for is wrong, and not the machine.
        let class = match error.class() {
            ErrorClass::NotFound | ErrorClass::Denied => ErrorClass::Invalid,
            class => class,
        };
        Failure::new(class, format!("{what}: {failure}{hint}"))
    };
    let keyring = if wanted.is_empty() {
        None
    } else {
        Some(Arc::new(Keyring::open_for(&app.keys_dir(), &*app.store).await?))
    };
    let mut service = None;
    if let Some(keyring) = keyring {
        let with = SecretService::new(
            app.store.clone(),
            keyring,
            app.store.clone(),
            app.clock.clone(),
            SecretServiceOptions::default(),
        );
        let loaded =
            with.load(job, owner, &wanted).await.map_err(|e| refused("stored secrets", e))?;
        service = Some((with, loaded));
    }
    let mut sealing = None;
    let mut values = Vec::with_capacity(sources.len());
    for (name, source) in sources {
        let value = match (source, &service) {
            (Source::Value(value), _) => value,
            (Source::Vault(key), Some((service, _))) => {
                service.get(job, &key).await.map_err(|e| refused(&format!("secret {name}"), e))?
            }
            (Source::Vault(_), None) => {
                unreachable!("there is a service where there is such a source")
            }
            (Source::Sealed(text), _) => {
                if sealing.is_none() {
                    let keys_dir = app.keys_dir();
                    let opened =
                        tokio::task::spawn_blocking(move || SealingKey::open(&keys_dir)).await;
                    let opened = opened.expect("opening a key does not panic");
                    sealing = Some(opened.map_err(|e| refused(&format!("secret {name}"), e))?);
                }
                let sealing = sealing.as_ref().expect("it was opened above");
                let key = name.parse().map_err(|e| refused(&format!("secret {name}"), e))?;
                let object = format!("{owner}/{key}");
                let value =
                    opened_for(app, job, &object, sealing.open_value(owner, &key, &text)).await;
                value.map_err(|e| refused(&format!("secret {name}"), e))?
            }
        };
        values.push((name, value));
    }
    Ok(Given { values, loaded: service.map(|(_, loaded)| loaded) })
}

/// Records that sealed text was opened for a job, or was not, before anybody has the value.
async fn opened_for(
    app: &App,
    job: &JobId,
    object: &str,
    opened: Result<SecretBytes, danube_secrets::Error>,
) -> Result<SecretBytes, danube_secrets::Error> {
    let event = AuditEvent {
        at: app.clock.now(),
        actor: AuditActor::Job(job.clone()),
        action: AuditAction::SecretLoaded,
        object: object.to_owned(),
        outcome: if opened.is_ok() { AuditOutcome::Done } else { AuditOutcome::Refused },
    };
    app.store.record(&event).await?;
    opened
}
