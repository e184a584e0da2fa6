//! Settings: from the command line, the environment and one TOML file, in this order.

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use danube_artifacts::attest::ProvenanceForm;
use danube_artifacts::collect::CollectLimits;
use danube_core::ErrorClass;
use danube_core::files::create_private_dir;
use danube_logs::{Keep, LineFormat, LogOptions};
use http::HeaderValue;
use serde::Deserialize;

use crate::failure::Failure;

mod bucket;

pub(crate) use bucket::Bucket;

/// The longest configuration file that is read.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What `danube init-config` writes: every setting at its default.
pub(crate) const DEFAULT_CONFIG: &str = r#"# Danube's configuration. Every setting stands here at its default, commented out.

# Where everything is kept; --data-dir and DANUBE_DATA_DIR win over it.
#data_dir = "/var/lib/danube"

[logs]
# Bytes kept of one job's log; what comes after is dropped and counted, and the job goes on.
#max_bytes = 52428800
# Bytes kept of all logs together: danube reaper lets those go first whose jobs ended first. 0 for no limit.
#max_total_bytes = 10737418240
# How many bytes of one log are kept for the end of a log that is longer: with 0 only its beginning is kept.
#tail_bytes = 0
# How a line begins: "milliseconds" ([2024-01-06T12:00:00.123Z] [step] [stdout]), "seconds", "time-of-day"
# ([12:00:00.123]) or "raw" (nothing). The last two do not say which step a line belongs to.
#format = "milliseconds"
# Whether logs are compressed (zstd) when their job has ended; read them with danube logs, or with zstd -dc.
#compress = false

[artifacts]
# Bytes of the largest file that is kept.
#max_file_bytes = 5000000000
# Bytes of all files that one job keeps together, and how many they may be; a job that matches more is lost.
#max_total_bytes = 50000000000
#max_files = 10000
# The pages ("https://ci.example.com") that may get and put files from a browser, by links of danube artifacts url, from
# this server or from the bucket.
#cors_origins = []

[artifacts.s3]
# The bucket that artifacts and sealed logs are kept in, instead of the data directory. It must exist; danube artifacts
# s3 setup gives it its rules. Credentials come from where every tool of AWS looks for them, never from here.
#bucket = ""
# Its region, where the environment or the profile does not say it.
#region = ""
# The address of a server that is not AWS, for instance "http://127.0.0.1:9000".
#endpoint = ""
# Whether the bucket's name stands in the path; with an endpoint it does unless this says false.
#path_style = false
# What every key begins with.
#prefix = "artifacts/"
# Days until what lies there moves to Standard-IA (at least 30) and to Glacier, where reading takes a restore. 0 for never.
#ia_days = 30
#glacier_days = 90
# Days until the bucket deletes what lies there, whoever wants it; then nothing can be kept longer. 0 for never: the reaper
# deletes.
#expire_days = 0
# Days that a bucket with versioning keeps what was deleted, and any bucket the parts of an upload that nobody ended.
#deleted_days = 30
#abort_upload_days = 7

[provenance]
# Who is named as the builder: a URI that stands for this installation.
#builder_id = "urn:danube:builder"
# The form of provenance: "v1", or "v0.2" or "v0.1" for tools that read nothing newer.
#form = "v1"

[retention]
# Days that logs and artifacts are kept after their job ended; a job's retention_days wins.
#logs_days = 30
#artifacts_days = 30

[run]
# Seconds between SIGTERM and SIGKILL when a job is ended.
#grace_seconds = 10
# Seconds that collecting artifacts may take after a job that did not pass, where it keeps them always.
#collect_seconds = 600

[serve]
# The port on 127.0.0.1.
#port = 8080
# How links of danube artifacts url begin; without it, http://127.0.0.1 and the port.
#public_url = "http://127.0.0.1:8080"
"#;

/// The file, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    data_dir: Option<PathBuf>,
    logs: Logs,
    artifacts: Artifacts,
    provenance: Provenance,
    retention: RetentionDays,
    run: Run,
    serve: Serve,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Logs {
    max_bytes: u64,
    max_total_bytes: u64,
    tail_bytes: u64,
    format: LineFormat,
    compress: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Artifacts {
    max_file_bytes: u64,
    max_total_bytes: u64,
    max_files: usize,
    cors_origins: Vec<String>,
    s3: Bucket,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Provenance {
    builder_id: String,
    form: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RetentionDays {
    logs_days: u32,
    artifacts_days: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Run {
    grace_seconds: u32,
    collect_seconds: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Serve {
    port: u16,
    public_url: Option<String>,
}

impl Default for Logs {
    fn default() -> Self {
        let LogOptions { max_log_bytes, format, .. } = LogOptions::default();
        Self {
            max_bytes: max_log_bytes,
            max_total_bytes: 10 * 1024 * 1024 * 1024,
            tail_bytes: 0,
            format,
            compress: false,
        }
    }
}

impl Logs {
    fn options(&self) -> LogOptions {
        let keep = match self.tail_bytes {
            0 => Keep::Head,
            tail_bytes => Keep::HeadAndTail { tail_bytes },
        };
        LogOptions::default()
            .with_max_log_bytes(self.max_bytes)
            .with_keep(keep)
            .with_format(self.format)
    }
}

impl Default for Artifacts {
    fn default() -> Self {
        let CollectLimits { max_file_bytes, max_total_bytes, max_files, .. } =
            CollectLimits::default();
        Self {
            max_file_bytes,
            max_total_bytes,
            max_files,
            cors_origins: Vec::new(),
            s3: Bucket::default(),
        }
    }
}

impl Default for Provenance {
    fn default() -> Self {
        Self { builder_id: "urn:danube:builder".to_owned(), form: "v1".to_owned() }
    }
}

impl Default for RetentionDays {
    fn default() -> Self {
        Self { logs_days: 30, artifacts_days: 30 }
    }
}

impl Default for Run {
    fn default() -> Self {
        Self { grace_seconds: 10, collect_seconds: 600 }
    }
}

impl Default for Serve {
    fn default() -> Self {
        Self { port: 8080, public_url: None }
    }
}

/// Every setting, decided.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) data_dir: PathBuf,
    pub(crate) log: LogOptions,
    /// Of all logs together.
    pub(crate) max_total_log_bytes: Option<u64>,
    pub(crate) compress_logs: bool,
    pub(crate) max_artifact_bytes: u64,
    pub(crate) max_total_artifact_bytes: u64,
    pub(crate) max_artifacts: usize,
    /// Where artifacts are kept, if not in the data directory.
    pub(crate) s3: Option<Bucket>,
    pub(crate) collect_limit: Duration,
    /// Pages that may use links from a browser.
    pub(crate) cors_origins: Vec<HeaderValue>,
    /// How links begin.
    pub(crate) public_url: String,
    pub(crate) builder_id: String,
    pub(crate) provenance_form: ProvenanceForm,
    pub(crate) keep_logs: Duration,
    pub(crate) keep_artifacts: Duration,
    pub(crate) grace: Duration,
    pub(crate) listen: SocketAddr,
}

impl Config {
    /// Refuses to keep something longer than the bucket does.
    pub(crate) fn check_kept(
        &self,
        keep_for: Option<Duration>,
        for_ever: bool,
    ) -> Result<(), Failure> {
        self.s3.as_ref().map_or(Ok(()), |bucket| bucket.check_kept(keep_for, for_ever))
    }

    /// Decides every setting. A file that was named must exist; the default one need not.
    pub(crate) fn load(
        data_dir: Option<PathBuf>,
        config: Option<PathBuf>,
        home: &Home,
    ) -> Result<Self, Failure> {
        let file = match config {
            Some(path) => read(&path)?,
            None => match home.config_file() {
                Some(path) if path.exists() => read(&path)?,
                _ => File::default(),
            },
        };
        let data_dir = data_dir.or(file.data_dir).or_else(|| home.data_dir()).ok_or_else(|| {
            Failure::invalid("there is no home directory: name one with --data-dir")
        })?;
        // Steps run elsewhere, and what is printed should be found from anywhere.
        let data_dir = std::path::absolute(&data_dir)
            .map_err(|e| Failure::invalid(format!("{}: {e}", data_dir.display())))?;
        Ok(Self {
            data_dir,
            log: file.logs.options(),
            max_total_log_bytes: Some(file.logs.max_total_bytes).filter(|&most| most > 0),
            compress_logs: file.logs.compress,
            max_artifact_bytes: file.artifacts.max_file_bytes,
            max_total_artifact_bytes: file.artifacts.max_total_bytes,
            max_artifacts: file.artifacts.max_files,
            s3: Some(file.artifacts.s3).filter(|s3| !s3.bucket.is_empty()),
            collect_limit: Duration::from_secs(file.run.collect_seconds.into()),
            // They were checked when the file was read.
            cors_origins: file.artifacts.cors_origins.iter().filter_map(|o| origin(o)).collect(),
            public_url: file
                .serve
                .public_url
                .unwrap_or_else(|| format!("http://127.0.0.1:{}", file.serve.port)),
            builder_id: file.provenance.builder_id,
            // It was checked when the file was read.
            provenance_form: file.provenance.form.parse()?,
            keep_logs: DAY * file.retention.logs_days,
            keep_artifacts: DAY * file.retention.artifacts_days,
            grace: Duration::from_secs(file.run.grace_seconds.into()),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, file.serve.port)),
        })
    }
}

fn read(path: &Path) -> Result<File, Failure> {
    let wrong = |why: String| Failure::invalid(format!("configuration {}: {why}", path.display()));
    let length = fs::metadata(path).map_err(|e| wrong(e.to_string()))?.len();
    if length > MAX_CONFIG_BYTES {
        return Err(wrong(format!("longer than {MAX_CONFIG_BYTES} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    let file: File = toml::from_str(&text).map_err(|e| {
        let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let index = before.matches('\n').count();
        let line = text.lines().nth(index).unwrap_or_default().trim();
        wrong(format!("line {}, {line:?}: {}", index + 1, e.message().replace('\n', " ")))
    })?;
    for (name, value) in [
        ("logs.max_bytes", file.logs.max_bytes),
        ("artifacts.max_file_bytes", file.artifacts.max_file_bytes),
        ("artifacts.max_total_bytes", file.artifacts.max_total_bytes),
        ("artifacts.max_files", file.artifacts.max_files as u64),
        ("run.collect_seconds", file.run.collect_seconds.into()),
        ("retention.logs_days", file.retention.logs_days.into()),
        ("retention.artifacts_days", file.retention.artifacts_days.into()),
    ] {
        if value == 0 {
            return Err(wrong(format!("{name} must be at least 1")));
        }
    }
    let form = file.provenance.form.parse::<ProvenanceForm>();
    form.map_err(|e| wrong(format!("provenance.form: {e}")))?;
    // A URI has a scheme; anything else names nobody.
    let scheme = file.provenance.builder_id.split_once(':').map(|(scheme, _)| scheme);
    if scheme.is_none_or(|scheme| !scheme.starts_with(|c: char| c.is_ascii_alphabetic())) {
        return Err(wrong("provenance.builder_id must be a URI".to_owned()));
    }
    if let Some(wrong_one) = file.artifacts.cors_origins.iter().find(|o| origin(o).is_none()) {
        return Err(wrong(format!(
            "artifacts.cors_origins: {wrong_one:?} must be an origin: http:// or https://, a host, a port if any, and nothing more"
        )));
    }
    if file.serve.public_url.as_deref().is_some_and(|url| !is_base_url(url)) {
        return Err(wrong(
            "serve.public_url must be http:// or https:// with a host, without a password, ? or #"
                .to_owned(),
        ));
    }
    let keep_artifacts = DAY * file.retention.artifacts_days;
    file.artifacts.s3.check(keep_artifacts).map_err(wrong)?;
    file.logs.options().check().map_err(|e| wrong(format!("logs.tail_bytes: {e}")))?;
    Ok(file)
}

/// A URL of HTTP with a host, without a user, a query or a fragment.
fn is_base_url(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty())
        && !user
        && url.bytes().all(|b| b.is_ascii_graphic())
        && !url.contains(['?', '#'])
}

/// An origin as browsers write it, if it is one: they compare byte by byte.
fn origin(text: &str) -> Option<HeaderValue> {
    let written = is_base_url(text) && text.bytes().all(|b| !b.is_ascii_uppercase());
    let (_, host) = text.split_once("://")?;
    (written && !host.contains(['/', '*'])).then(|| HeaderValue::from_str(text).ok())?
}

/// Writes [`DEFAULT_CONFIG`] to a file that does not exist yet.
pub(crate) fn init(path: Option<PathBuf>, home: &Home) -> Result<PathBuf, Failure> {
    let path = path
        .or_else(|| home.config_file())
        .ok_or_else(|| Failure::invalid("there is no home directory: name the file to write"))?;
    let failed = |e: io::Error| {
        let why = match e.kind() {
            io::ErrorKind::AlreadyExists => "it exists already and is left as it is".to_owned(),
            _ => e.to_string(),
        };
        Failure::new(ErrorClass::of_io(&e), format!("cannot write {}: {why}", path.display()))
    };
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        create_private_dir(parent).map_err(failed)?;
    }
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path);
    file.and_then(|mut file| {
        file.write_all(DEFAULT_CONFIG.as_bytes())?;
        file.sync_all()
    })
    .map_err(failed)?;
    Ok(path)
}

/// Where this user's files are, as the environment tells.
#[derive(Debug, Clone, Default)]
pub(crate) struct Home {
    pub(crate) is_root: bool,
    pub(crate) home: Option<PathBuf>,
    pub(crate) xdg_data_home: Option<PathBuf>,
    pub(crate) xdg_config_home: Option<PathBuf>,
}

impl Home {
    fn data_dir(&self) -> Option<PathBuf> {
        if self.is_root {
            return Some("/var/lib/danube".into());
        }
        let below_home = || self.home.as_ref().map(|home| home.join(".local/share"));
        Some(self.xdg_data_home.clone().or_else(below_home)?.join("danube"))
    }

    fn config_file(&self) -> Option<PathBuf> {
        if self.is_root {
            return Some("/etc/danube/danube.toml".into());
        }
        let below_home = || self.home.as_ref().map(|home| home.join(".config"));
        Some(self.xdg_config_home.clone().or_else(below_home)?.join("danube/danube.toml"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("danube.toml");
        fs::write(&path, text).unwrap();
        Config::load(Some("/data".into()), Some(path), &Home::default())
    }

    #[test]
    fn the_written_file_is_the_defaults_with_and_without_its_comment_signs() {
        let commented = load(DEFAULT_CONFIG).unwrap();
        let uncommented: String = DEFAULT_CONFIG
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting) if setting.contains(" = ") && !setting.starts_with(' ') => setting,
                _ => line,
            })
            .map(|line| format!("{line}\n"))
            .collect();
        assert_ne!(uncommented, DEFAULT_CONFIG);
        let set = load(&uncommented).unwrap();
        assert_eq!(format!("{commented:?}"), format!("{set:?}"));
        assert_eq!((set.log.max_log_bytes, set.log.keep), (52_428_800, Keep::Head));
        assert_eq!(
            (set.max_artifact_bytes, set.max_total_artifact_bytes),
            (5_000_000_000, 50_000_000_000)
        );
        assert_eq!((set.max_artifacts, set.collect_limit.as_secs()), (10_000, 600));
        assert_eq!(set.listen.to_string(), "127.0.0.1:8080");
    }

    #[test]
    fn a_typo_a_zero_and_a_missing_file_are_refused_by_name() {
        for (text, named) in [
            ("[logs]\nmax_byte = 1", "max_byte"),
            ("[logs]\ntail_bytes = 60000000", "logs.tail_bytes"),
            ("[logs]\nformat = \"rfc3339\"", "rfc3339"),
            ("[retention]\nlogs_days = 0", "retention.logs_days"),
            ("[artifacts]\nmax_total_bytes = 0", "artifacts.max_total_bytes"),
            ("[artifacts]\nmax_files = 0", "artifacts.max_files"),
            ("[run]\ncollect_seconds = 0", "run.collect_seconds"),
            ("[retention]\nlogs_days = \"30 d\"", "logs_days"),
            ("[retention]\nlogs_days = -1", "logs_days"),
            ("[artifacts]\ncors_origins = [\"*\"]", "artifacts.cors_origins"),
            ("[artifacts]\ncors_origins = [\"https://a.example/\"]", "artifacts.cors_origins"),
            ("[artifacts]\ncors_origins = [\"https://*.example\"]", "artifacts.cors_origins"),
            ("[artifacts]\ncors_origins = [\"https://A.example\"]", "artifacts.cors_origins"),
            ("[artifacts]\ncors_origins = [\"null\"]", "artifacts.cors_origins"),
            ("[serve]\npublic_url = \"ci.example\"", "serve.public_url"),
            ("[serve]\npublic_url = \"ftp://ci.example\"", "serve.public_url"),
            ("[serve]\npublic_url = \"https://a:b@ci.example\"", "serve.public_url"),
            ("[serve]\npublic_url = \"https://ci.example/?a\"", "serve.public_url"),
            ("[provenance]\nform = \"v2\"", "v1, v0.2 or v0.1"),
            ("[artifacts.s3]\nregion = \"eu-central-1\"", "artifacts.s3.bucket"),
            ("[artifacts.s3]\nbuckt = \"team\"", "buckt"),
            ("[artifacts.s3]\nbucket = \"Team\"", "S3 bucket"),
            ("[artifacts.s3]\nbucket = \"team\"\nia_days = 3", "ia_days"),
            (
                "[retention]\nartifacts_days = 400\n[artifacts.s3]\nbucket = \"team\"\nexpire_days = 365",
                "artifacts.s3.expire_days",
            ),
            ("[provenance]\nbuilder_id = \"us\"", "provenance.builder_id"),
            ("[logs", "danube.toml"),
        ] {
            let failure = load(text).unwrap_err();
            assert_eq!(failure.class(), ErrorClass::Invalid);
            assert!(failure.to_string().contains(named), "{failure}");
        }
        let missing = Config::load(None, Some("/no/such.toml".into()), &Home::default());
        assert!(missing.unwrap_err().to_string().contains("/no/such.toml"));
    }

    #[test]
    fn an_existing_configuration_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/danube.toml");
        assert_eq!(init(Some(path.clone()), &Home::default()).unwrap(), path);
        fs::write(&path, "mine").unwrap();
        assert_eq!(
            init(Some(path.clone()), &Home::default()).unwrap_err().class(),
            ErrorClass::Conflict
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
