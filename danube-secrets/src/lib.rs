#![doc = include_str!("../README.md")]

mod automaton;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod file;
mod keyring;
mod memory;
mod needles;
mod redactor;
mod vault;

pub use error::Error;
pub use file::{MAX_SECRET_BYTES, read_secret_file};
pub use keyring::{Keyring, MAX_ENCRYPTION_KEYS};
pub use memory::MemoryVault;
pub use needles::{MASK, MAX_NEEDLES, MAX_NEEDLES_BYTES, MIN_SECRET_BYTES, Needles};
pub use redactor::Redactor;
pub use vault::{MAX_SECRETS_PER_OWNER, SealedValue, SecretKey, SecretOwner, SecretVault};
