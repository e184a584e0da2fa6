#![doc = include_str!("../README.md")]

#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod file;
mod file_vault;
mod keyring;
mod memory;
mod redactor;
mod sealing;
mod service;
mod vault;
mod wipe;

pub use error::Error;
pub use file::{MAX_SECRET_BYTES, read_secret, read_secret_file};
pub use file_vault::FileVault;
pub use keyring::{Keyring, MAX_ENCRYPTION_KEYS, MAX_UNOPENED_NAMES, Rotated};
pub use memory::MemoryVault;
pub use redactor::{
    Form, MASK, MAX_NEEDLES, MAX_NEEDLES_BYTES, MIN_SECRET_BYTES, Masked, Needles, Redactor,
};
pub use sealing::{PUBLIC_KEY_PREFIX, SEALED_PREFIX, SealingKey, SealingPublicKey};
pub use service::{
    CACHE_SIZE_GAUGE, LoadedSecrets, MAX_LOADED_BYTES, SecretService, SecretServiceOptions,
};
pub use vault::{
    MAX_OWNERS_PER_LIST, MAX_SEALED_BYTES, MAX_SECRETS_PER_OWNER, SealedValue, SecretKey,
    SecretOwner, SecretVault,
};

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going away with everything on it: nobody waits for the answer.
            Err(_) => std::future::pending().await,
        },
    }
}
