//! The binary as people run it: every test starts `danube` in a data directory of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod archive;
mod artifacts;
mod bad_input;
mod canary;
mod collect;
mod docs;
mod harness;
mod keys;
mod links;
mod logs;
#[path = "../../../danube-artifacts/tests/support/moto.rs"]
mod moto;
#[path = "../../../danube-artifacts/tests/support/python.rs"]
mod python;
mod recovery;
mod run;
#[cfg(feature = "s3")]
mod s3;
mod secrets;
mod serve;
mod source;
mod vault;
mod verify;
