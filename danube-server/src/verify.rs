//! `danube verify-artifact`: checks a file offline; opens no database and writes nothing.

use danube_artifacts::PublicKeys;
use danube_artifacts::attest::ProvenanceInput;
use danube_artifacts::verify::{VerifyOptions, verify_file, verify_log};
use danube_core::ErrorClass;

use crate::app::trusted_keys;
use crate::cli::VerifyArgs;
use crate::config::Config;
use crate::failure::Failure;
use crate::terminal::{self, Sink};

pub(crate) async fn verify(config: &Config, args: VerifyArgs) -> Result<u8, Failure> {
    let config = config.clone();
    let checked = tokio::task::spawn_blocking(move || check(&config, args)).await;
    checked.expect("verifying does not panic").or_else(|failure| {
        // Whatever kept the proof from being made: it was not made, and the answer is no.
        Sink::Stderr.line(&format!("danube: {}", terminal::safe(&failure.to_string())));
        Ok(1)
    })
}

fn check(config: &Config, args: VerifyArgs) -> Result<u8, Failure> {
    let VerifyArgs {
        path,
        public_key,
        provenance,
        signature,
        signature_only,
        log,
        job,
        name,
        repository,
        commit,
    } = args;
    let keys = match &public_key {
        Some(file) => PublicKeys::from_pem_file(file)?,
        None => trusted_keys(config)?,
    };
    let mut options = VerifyOptions::new(keys);
    options.provenance = provenance;
    options.signature = signature;
    options.signature_only = signature_only;
    options.expected_job = job;
    options.expected_name = name;
    options.expected_repository = repository;
    options.expected_commit = commit;
    let shown = terminal::safe(&path.display().to_string());
    let verified = if log { verify_log(&path, &options) } else { verify_file(&path, &options) };
    match verified {
        Ok(proof) => {
            for check in &proof.checks {
                Sink::Stdout.line(&format!("  ok  {}", terminal::safe(check)));
            }
            for (what, said) in proof.about.iter().flat_map(says) {
                Sink::Stdout.line(&format!("says  {what}: {}", terminal::safe(&said)));
            }
            Sink::Stdout.line(&format!("{shown} is verified"));
            Ok(0)
        }
        Err(error) => Err(Failure::of(ErrorClass::Denied, &error)),
    }
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
