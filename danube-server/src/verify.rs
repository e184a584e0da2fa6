//! `danube verify-artifact`: checks a file offline, or what a server has; opens no database and writes
//! nothing.

use danube_artifacts::attest::{MAX_PROVENANCE_BYTES, ProvenanceInput};
use danube_artifacts::verify::{
    Digester, Evidence, Failure as Lack, Fetched, FetchedSubject, Part, VerifyError, VerifyOptions,
    verify_fetched, verify_file, verify_log, verify_log_in,
};
use danube_artifacts::{PublicKeys, Signature, Verified};
use danube_core::{ArtifactName, ErrorClass};
use danube_logs::LogText;

use crate::app::trusted_keys;
use crate::cli::VerifyArgs;
use crate::config::Config;
use crate::failure::Failure;
use crate::fetch::Server;
use crate::terminal::{self, Sink};

pub(crate) async fn verify(config: &Config, args: VerifyArgs) -> Result<u8, Failure> {
    let checked = match args.server.clone() {
        Some(server) => check_server(config, args, server).await,
        None => {
            let config = config.clone();
            let checking = tokio::task::spawn_blocking(move || check(&config, args));
            checking.await.expect("verifying does not panic")
        }
    };
    checked.or_else(|failure| {
        // Whatever kept the proof from being made: it was not made, and the answer is no.
        Sink::Stderr.line(&format!("danube: {}", terminal::safe(&failure.to_string())));
        Ok(1)
    })
}

fn options(config: &Config, args: VerifyArgs) -> Result<VerifyOptions, Failure> {
    let keys = match &args.public_key {
        Some(file) => PublicKeys::from_pem_file(file)?,
        None => trusted_keys(config)?,
    };
    let mut options = VerifyOptions::new(keys);
    options.provenance = args.provenance;
    options.signature = args.signature;
    options.signature_only = args.signature_only;
    options.expected_job = args.job;
    options.expected_name = args.name;
    options.expected_repository = args.repository;
    options.expected_commit = args.commit;
    Ok(options)
}

fn check(config: &Config, mut args: VerifyArgs) -> Result<u8, Failure> {
    let path = args.path.take().expect("the command line asks for it");
    let is_log = args.log;
    let options = options(config, args)?;
    let verified = match path.extension().is_some_and(|extension| extension == "zst") {
        true if is_log => verify_log_in(&path, &options, LogText::of_compressed),
        false if is_log => verify_log(&path, &options),
        _ => verify_file(&path, &options),
    };
    tell(verified.map_err(|error| refusal(&error, is_log)), &path.display().to_string())
}

/// Why it is not verified, with what can be done about it.
fn refusal(error: &VerifyError, is_log: bool) -> Failure {
    let failure = Failure::of(ErrorClass::Denied, error);
    if error.part != Part::Envelope || error.failure != Lack::Missing {
        return failure;
    }
    let hint = if is_log {
        "a log is bound by the provenance of its job, and it is written when the job has passed"
    } else {
        "provenance is written when a job has passed; that a trusted key signed a file of one that did not is \
         verified with --signature-only"
    };
    Failure::new(ErrorClass::Denied, format!("{failure}: {hint}"))
}

/// Verifies what a server has; it is digested while it comes, and nothing is written.
async fn check_server(
    config: &Config,
    mut args: VerifyArgs,
    server: http::Uri,
) -> Result<u8, Failure> {
    let job = args.job.clone().expect("the command line asks for it");
    let name = args.path.take().filter(|_| !args.log);
    let name = name.map(|name| name.to_string_lossy().parse::<ArtifactName>());
    let name = name.transpose().map_err(|e| Failure::of(ErrorClass::Invalid, &e))?;
    let (keys_of, limit) = (config.clone(), config.max_artifact_bytes);
    let options = tokio::task::spawn_blocking(move || options(&keys_of, args)).await;
    let options = options.expect("reading keys does not panic")?;

    let server = Server::new(&server)?;
    let of_job = format!("/api/v1/jobs/{job}");
    let envelope = server.whole(&format!("{of_job}/provenance.dsse"), MAX_PROVENANCE_BYTES).await;
    let envelope = envelope.map_err(|failure| match failure.class() {
        ErrorClass::NotFound => Failure::new(
            ErrorClass::NotFound,
            format!("{failure}: provenance is written when a job has passed"),
        ),
        _ => failure,
    })?;
    let payload = server.whole(&format!("{of_job}/provenance"), MAX_PROVENANCE_BYTES).await?;
    let (path, subject) = match name {
        Some(name) => {
            let path = format!("{of_job}/artifacts/{}", encoded(name.as_str()));
            let signature = server.whole(&format!("{path}?part=signature"), 16 * 1024).await?;
            let signature = Signature::from_bytes(signature);
            (path, FetchedSubject::Artifact { name, signature })
        }
        None => (format!("{of_job}/logs"), FetchedSubject::Log),
    };
    let mut hasher = Digester::new();
    let size_bytes = server.each(&path, limit, |piece| hasher.update(piece)).await?;
    let from = format!("{server}{path}");
    let found = (size_bytes, hasher.finish());
    let fetched = Fetched::new(&from, subject, found, envelope, payload);
    let verified = verify_fetched(&fetched, &options);
    tell(verified.map_err(|error| Failure::of(ErrorClass::Denied, &error)), &from)
}

/// A name as a path of a URL.
fn encoded(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    name.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

fn tell(verified: Result<Verified<Evidence>, Failure>, what: &str) -> Result<u8, Failure> {
    let proof = verified?;
    for check in &proof.checks {
        Sink::Stdout.line(&format!("  ok  {}", terminal::safe(check)));
    }
    for (what, said) in proof.about.iter().flat_map(says) {
        Sink::Stdout.line(&format!("says  {what}: {}", terminal::safe(&said)));
    }
    Sink::Stdout.line(&format!("{} is verified", terminal::safe(what)));
    Ok(0)
}

/// What the provenance says beyond what was checked: as true as the holder of the key is honest.
fn says(about: &ProvenanceInput) -> Vec<(&'static str, String)> {
    let mut said =
        vec![("builder", format!("{} (danube {})", about.builder_id, about.builder_version))];
    said.extend(about.pipeline.iter().map(|pipeline| ("pipeline", pipeline.clone())));
    if let Some(source) = &about.source {
        said.push(("repository", source.repository.clone()));
        said.push(("commit", source.commit.clone()));
        said.extend(source.branch.iter().map(|branch| ("branch", branch.clone())));
    }
    let entry_points = about.entry_point.iter();
    said.extend(
        entry_points.map(|entry| ("entry point", format!("{} {}", entry.path, entry.digest))),
    );
    said.extend(about.finished_at.iter().map(|time| ("finished", time.to_string())));
    said
}
