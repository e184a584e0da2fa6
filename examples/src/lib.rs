//! The examples are programs: see the files beside the manifest.
