//! The benchmarks are programs: see the files beside the manifest.
