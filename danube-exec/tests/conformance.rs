//! The laws of the contract, for direct children.

use danube_exec::LocalProcesses;

danube_exec::executor_conformance!(direct, LocalProcesses::new());
