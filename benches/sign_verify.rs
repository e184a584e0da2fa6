//! Signing and verifying. `sign` and `verify` are Ed25519 over a digest; `verify_file` is everything that
//! `danube verify-artifact` does with 64 MiB, against SHA-256 of the same bytes alone, its limit.
//! `statement` seals and verifies the provenance of 1,000 artifacts. Run with
//! `cargo bench --bench sign_verify`.

use std::fs::{self, File};
use std::io::Read;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use danube_artifacts::attest::{Envelope, ProvenanceInput, statement};
use danube_artifacts::verify::{VerifyOptions, verify_file};
use danube_artifacts::{
    ArtifactId, ArtifactKind, ArtifactRecord, ArtifactState, Signer, SigningKey, Verifier,
};
use danube_core::{JobId, Sha256Digest, Timestamp};
use sha2::{Digest, Sha256};

const FILE_BYTES: usize = 64 * 1024 * 1024;
const CHUNK_BYTES: usize = 256 * 1024;

fn record(job: &JobId, name: &str, size_bytes: u64, digest: Sha256Digest) -> ArtifactRecord {
    ArtifactRecord {
        id: ArtifactId::mint(Timestamp::UNIX_EPOCH),
        job: job.clone(),
        name: name.parse().expect("a name"),
        size_bytes,
        digest,
        content_type: "application/octet-stream".to_owned(),
        kind: ArtifactKind::Other,
        state: ArtifactState::Active,
        created_at: Timestamp::UNIX_EPOCH,
        archived_at: None,
        keep_for: None,
        keep_forever: false,
        tags: std::collections::BTreeMap::new(),
    }
}

fn sign_verify(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let key = SigningKey::generate().expect("a key");
    let keys = key.public_keys();
    let job: JobId = "bench".parse().expect("an id");
    let digest = [7; 32];
    let mut group = criterion.benchmark_group("sign_verify");
    let signature = runtime.block_on(key.sign(&digest)).expect("signed");
    group.bench_function("sign", |b| b.iter(|| runtime.block_on(key.sign(&digest))));
    group.bench_function("verify", |b| b.iter(|| keys.verify(None, &digest, &signature)));

    let about = ProvenanceInput::new(job.clone(), "urn:bench", "0", serde_json::json!({}));
    let many: Vec<_> = (0..1000)
        .map(|n| record(&job, &format!("out/{n:04}.bin"), n, Sha256Digest::from_bytes([9; 32])))
        .collect();
    group.bench_function("statement of 1000: seal", |b| {
        b.iter(|| {
            let made = statement(&about, &many, None).expect("a statement");
            runtime.block_on(Envelope::seal(&made, &key)).expect("sealed").to_bytes()
        });
    });
    let made = statement(&about, &many, None).expect("a statement");
    let sealed = runtime.block_on(Envelope::seal(&made, &key)).expect("sealed").to_bytes();
    group.bench_function("statement of 1000: verify", |b| {
        b.iter(|| Envelope::parse(&sealed).expect("an envelope").verify(&keys).expect("it holds"));
    });

    // A file with its evidence beside it, as somebody would send it.
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("a.bin");
    let bytes: Vec<u8> = (0..FILE_BYTES).map(|n| (n % 251) as u8).collect();
    fs::write(&path, &bytes).expect("written");
    let digest = Sha256Digest::from_bytes(Sha256::digest(&bytes).into());
    drop(bytes);
    let signature = runtime.block_on(key.sign(digest.as_bytes())).expect("signed");
    fs::write(dir.path().join("a.bin.sig"), signature.as_bytes()).expect("written");
    let one = [record(&job, "a.bin", FILE_BYTES as u64, digest)];
    let made = statement(&about, &one, None).expect("a statement");
    let envelope = runtime.block_on(Envelope::seal(&made, &key)).expect("sealed");
    fs::write(dir.path().join("provenance.dsse.json"), envelope.to_bytes()).expect("written");
    fs::write(dir.path().join("provenance.json"), envelope.payload()).expect("written");
    let options = VerifyOptions::new(keys);
    group.sample_size(10).throughput(Throughput::Bytes(FILE_BYTES as u64));
    group.bench_function("verify_file", |b| {
        b.iter(|| verify_file(&path, &options).expect("verified"));
    });
    group.bench_function("limit: read and SHA-256", |b| {
        b.iter(|| {
            let mut file = File::open(&path).expect("a file");
            let mut buffer = vec![0; CHUNK_BYTES];
            let mut hasher = Sha256::new();
            loop {
                match file.read(&mut buffer).expect("read") {
                    0 => return hasher.finalize(),
                    read => hasher.update(&buffer[..read]),
                }
            }
        });
    });
    group.finish();
}

criterion_group!(benches, sign_verify);
criterion_main!(benches);
