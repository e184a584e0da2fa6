//! The laws of the contract, for every backend of this crate.

use danube_logs::conformance::Faulty;
use danube_logs::{FsLogs, MemoryLogs};

danube_logs::log_store_conformance!(memory, {
    let logs = MemoryLogs::new();
    move || logs.other_owner()
});

danube_logs::log_store_conformance!(files, {
    let dir = tempfile::tempdir().expect("a directory");
    move || FsLogs::new(dir.path().join("logs"))
});

danube_logs::log_store_conformance!(compressed_files, {
    let dir = tempfile::tempdir().expect("a directory");
    move || FsLogs::compressed(dir.path().join("logs"))
});

danube_logs::log_store_conformance!(faulty_memory, {
    let logs = MemoryLogs::new();
    move || Faulty::new(logs.other_owner())
});

danube_logs::log_store_conformance!(faulty_files, {
    let dir = tempfile::tempdir().expect("a directory");
    move || Faulty::new(FsLogs::compressed(dir.path().join("logs")))
});
