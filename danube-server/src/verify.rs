//! `danube verify-artifact`: checks a file offline; opens no database and writes nothing.

use danube_artifacts::PublicKeys;
use danube_artifacts::verify::{VerifyOptions, verify_file};
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
    let VerifyArgs { path, public_key, provenance, signature, signature_only, job } = args;
    let keys = match &public_key {
        Some(file) => PublicKeys::from_pem_file(file)?,
        None => trusted_keys(config)?,
    };
    let mut options = VerifyOptions::new(keys);
    options.provenance = provenance;
    options.signature = signature;
    options.signature_only = signature_only;
    options.expected_job = job;
    let shown = terminal::safe(&path.display().to_string());
    match verify_file(&path, &options) {
        Ok(proof) => {
            for check in &proof.checks {
                Sink::Stdout.line(&format!("  ok  {}", terminal::safe(check)));
            }
            Sink::Stdout.line(&format!("{shown} is verified"));
            Ok(0)
        }
        Err(error) => Err(Failure::of(ErrorClass::Denied, &error)),
    }
}
