//! What is left of a secret in this process once its job has ended: nothing.
//!
//! All memory that the process can write is searched, through `/proc/self/mem`. The value is random and is
//! never in one piece anywhere but where the service puts it: what is looked for is masked.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use danube_core::{JobId, NoAudit, SecretBytes, StreamFilter, SystemClock};
use danube_secrets::{
    FileVault, Keyring, Needles, SealingKey, SecretKey, SecretOwner, SecretService,
    SecretServiceOptions, SecretVault,
};

const MASK: u8 = 0xa5;
const LEN: usize = 48;
/// A piece of the value counts as a copy of it: the size of a cipher's block.
const PIECE: usize = 16;
const CHUNK: usize = 1 << 20;

/// The value, so that it cannot be found by itself.
struct Masked([u8; LEN]);

impl Masked {
    fn of(secret: &SecretBytes) -> Self {
        let mut masked = [0; LEN];
        for (at, byte) in secret.expose().iter().enumerate() {
            masked[at] = byte ^ MASK;
        }
        Self(masked)
    }

    /// How many pieces of the value are in what the process can write, outside of `buffer`.
    fn copies(&self, buffer: &mut [u8]) -> usize {
        let own = buffer.as_ptr() as u64..buffer.as_ptr() as u64 + buffer.len() as u64;
        let memory = File::open("/proc/self/mem").unwrap();
        let mut found = 0;
        for line in fs::read_to_string("/proc/self/maps").unwrap().lines() {
            let mut words = line.split(' ');
            let (range, mode) = (words.next().unwrap(), words.next().unwrap());
            if !mode.starts_with("rw") {
                continue;
            }
            let (from, to) = range.split_once('-').unwrap();
            let (mut at, to) =
                (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
            while at < to {
                let len = buffer.len().min(usize::try_from(to - at).unwrap());
                // What is not there any more cannot hold anything.
                let Ok(read) = memory.read_at(&mut buffer[..len], at) else { break };
                if read == 0 {
                    break;
                }
                let pieces = buffer[..read].windows(PIECE).enumerate();
                found += pieces
                    .filter(|(offset, window)| {
                        !own.contains(&(at + *offset as u64)) && self.has(window)
                    })
                    .count();
                // The next chunk begins where a piece may have been cut.
                at += if read > PIECE && at + (read as u64) < to { read - PIECE + 1 } else { read }
                    as u64;
            }
        }
        found
    }

    fn has(&self, window: &[u8]) -> bool {
        self.0
            .chunks(PIECE)
            .any(|piece| piece.iter().zip(window).all(|(masked, byte)| masked ^ MASK == *byte))
    }
}

/// A value of printable characters that this process has nowhere else.
fn plant() -> SecretBytes {
    let mut bytes = vec![0; LEN];
    getrandom::fill(&mut bytes).unwrap();
    for byte in &mut bytes {
        *byte = b'!' + *byte % 90;
    }
    SecretBytes::new(bytes)
}

#[test]
fn after_the_end_of_its_job_no_copy_of_a_secret_is_in_this_process() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut buffer = vec![0; CHUNK];
    let dir = tempfile::tempdir().unwrap();
    let (owner, key): (SecretOwner, SecretKey) = ("o".parse().unwrap(), "TOKEN".parse().unwrap());
    let job: JobId = "a".parse().unwrap();
    let keyring = Arc::new(Keyring::open_or_create(&dir.path().join("keys")).unwrap());
    let vault = Arc::new(FileVault::new(dir.path().join("vault")));

    let secret = plant();
    let masked = Masked::of(&secret);
    assert!(masked.copies(&mut buffer) > 0, "the search does not find what is there");
    let sealed = keyring.seal(&owner, &key, &secret).unwrap();
    runtime.block_on(vault.put(&owner, &key, &sealed)).unwrap();
    let sealing = SealingKey::open_or_create(&dir.path().join("keys")).unwrap();
    let text = sealing.public_key().seal(&owner, &key, &secret).unwrap();
    drop(secret);
    assert_eq!(masked.copies(&mut buffer), 0, "left by sealing");

    let service = SecretService::new(
        vault.clone(),
        keyring.clone(),
        Arc::new(NoAudit),
        Arc::new(SystemClock),
        SecretServiceOptions::default(),
    );
    let loaded = runtime.block_on(service.load(&job, &owner, std::slice::from_ref(&key))).unwrap();
    assert!(masked.copies(&mut buffer) > 0, "the search does not find what is loaded");
    let given = runtime.block_on(service.get(&job, &key)).unwrap();
    drop(given);
    drop(loaded);
    assert_eq!(masked.copies(&mut buffer), 0, "left by loading, giving and ending");

    // Masked in a stream: in pieces, with a pause in it, and held back at the end.
    let loaded = runtime.block_on(service.load(&job, &owner, std::slice::from_ref(&key))).unwrap();
    let given = runtime.block_on(service.get(&job, &key)).unwrap();
    let needles = Needles::new([given.clone()]).unwrap();
    assert!(masked.copies(&mut buffer) > 1, "the search does not find what is masked");
    let (mut redactor, mut out) = (needles.redactor(), Vec::new());
    let (first, rest) = given.expose().split_at(LEN / 2);
    for _ in 0..100 {
        redactor.push(first, &mut out);
        redactor.idle(&mut out);
        redactor.push(rest, &mut out);
    }
    needles.add(["another one".into()]).unwrap();
    redactor.push(&given.expose()[..LEN - 1], &mut out);
    drop((redactor, needles, given, loaded));
    assert_eq!(masked.copies(&mut buffer), 0, "left by masking");

    let loaded = runtime.block_on(service.load(&job, &owner, std::slice::from_ref(&key))).unwrap();
    assert_eq!(service.clear(&job), 1);
    assert_eq!(masked.copies(&mut buffer), 0, "left by clearing");

    drop(sealing.open_value(&owner, &key, &text).unwrap());
    assert_eq!(masked.copies(&mut buffer), 0, "left by opening sealed text");

    assert_eq!(runtime.block_on(keyring.rotate(&*vault)).unwrap().resealed, 1);
    assert_eq!(masked.copies(&mut buffer), 0, "left by rotating");

    // The keys themselves.
    let (of_key, of_sealing) = (key_in(dir.path(), "encryption"), key_in(dir.path(), "sealing"));
    assert!(of_key.copies(&mut buffer) > 0, "the search does not find the encryption key");
    assert!(of_sealing.copies(&mut buffer) > 0, "the search does not find the sealing key");
    drop((loaded, service, keyring, sealing));
    assert_eq!(of_key.copies(&mut buffer), 0, "left of the encryption key");
    assert_eq!(of_sealing.copies(&mut buffer), 0, "left of the sealing key");
}

fn key_in(dir: &std::path::Path, name: &str) -> Masked {
    let mut key = vec![0; LEN];
    let mut file = File::open(dir.join(format!("keys/{name}.key"))).unwrap();
    file.read_exact(&mut key[..32]).unwrap();
    if name == "sealing" {
        // As X25519 uses it, and as it is kept (RFC 7748, section 5).
        key[0] &= 248;
        key[31] = key[31] & 127 | 64;
    }
    key.copy_within(..LEN - 32, 32);
    Masked::of(&SecretBytes::new(key))
}
