//! A Python with other people's packages. A test that wants one includes this file by its path.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A Python with these packages, made once in the target directory, which the tests of every crate share.
pub(crate) fn python(name: &str, packages: &[&str]) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let (python, done) = (dir.join("bin/python"), dir.join("installed"));
    // Tests run at once, and two test binaries may.
    let lock = File::create(dir.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let wanted = packages.join(" ");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return python;
    }
    // Debian has `venv` in the package python3-venv.
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir));
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(Command::new(&python).args(pip).args(packages));
    fs::write(done, wanted).unwrap();
    python
}

/// Runs it to its end and returns what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {said}");
    String::from_utf8(out.stdout).unwrap()
}
