//! The examples are the programs beside the manifest; here the project's README is tested.

/// The README's code, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
