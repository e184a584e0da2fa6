//! Keeps a file, signs it, writes its provenance, and verifies it as a stranger would: offline, with
//! the public key alone.
//!
//! `cargo run --example keep_and_verify_an_artifact`
#![expect(clippy::print_stdout, reason = "an example shows something")]

use std::fs;
use std::sync::Arc;

use danube_artifacts::attest::ProvenanceInput;
use danube_artifacts::verify::{VerifyOptions, verify_file};
use danube_artifacts::{
    Artifacts, FsBlobs, KeepOptions, MemoryIndex, PublicKeys, SigningKeys, collect, file_stream,
};
use danube_core::{JobId, SystemClock};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let work = dir.path().join("work");
    fs::create_dir_all(work.join("out"))?;
    fs::write(work.join("out/report.txt"), "all is well\n")?;

    // The keys are made on first use: signing.key (0600) and signing.key.pub.
    let (key, _) = SigningKeys::open_or_create(&dir.path().join("keys"))?;
    let blobs = Arc::new(FsBlobs::new(dir.path().join("artifacts")));
    let index = Arc::new(MemoryIndex::default());
    let artifacts = Artifacts::new(blobs, index, Arc::new(key), Arc::new(SystemClock));

    let job: JobId = "example".parse()?;
    let patterns = collect::Patterns::parse(&["out/**".to_owned()])?;
    let found = collect::find(&work, &patterns, &collect::CollectLimits::default(), &[])?;
    let mut kept = Vec::new();
    for file in found.files {
        let body = file_stream(collect::open_beneath(&work, &file.name)?);
        let record = artifacts.keep(&job, &file.name, body, KeepOptions::default()).await?;
        kept.push(artifacts.sign(&record).await?);
    }
    let parameters = serde_json::json!({"step": "report"});
    let input = ProvenanceInput::new(job, "https://example.com/ci", "1.0", parameters);
    artifacts.prove(&input, &kept, None).await?;

    // From here on: files on disk, and the public key.
    let path = dir.path().join("artifacts/example/out/report.txt");
    let public = PublicKeys::from_pem_file(&dir.path().join("keys/signing.key.pub"))?;
    let proof = verify_file(&path, &VerifyOptions::new(public.clone()))?;
    for check in &proof.checks {
        println!("ok: {check}");
    }

    // One flipped byte, and nobody vouches for it any more.
    let mut bytes = fs::read(&path)?;
    bytes[0] ^= 1;
    fs::remove_file(&path)?;
    fs::write(&path, bytes)?;
    let refused = verify_file(&path, &VerifyOptions::new(public));
    println!("refused: {}", refused.err().ok_or("a changed file was accepted")?);
    Ok(())
}
