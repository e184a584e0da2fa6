//! The project's own chores: `cargo xtask test | lint | bench`.
#![expect(clippy::print_stderr, reason = "a build tool talks to whoever runs it")]

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What the tests start beside Rust itself: (program, Debian package).
const TEST_TOOLS: &[(&str, &str)] = &[
    ("openssl", "openssl"),
    ("curl", "curl"),
    ("git", "git"),
    ("flock", "util-linux"),
    ("mount", "mount"),
    ("unshare", "util-linux"),
    ("prlimit", "util-linux"),
    ("tar", "tar"),
    ("bsdtar", "libarchive-tools"),
    ("strace", "strace"),
    // With python3 itself; tests install libraries of other people into an environment of their own.
    ("python3", "python3-venv"),
];

/// What the benchmarks are held against, with `--peers`: (program, Debian package).
const BENCH_PEERS: &[(&str, &str)] =
    &[("rg", "ripgrep"), ("s6-log", "s6"), ("multilog", "daemontools"), ("aws", "awscli")];

/// The version that `deny.toml` was written for.
const CARGO_DENY: &str = "0.20.2";

/// A server of S3 for tests. As a dependency it would bring what `deny.toml` forbids; 0.17 needs a newer Rust.
const S3S_FS: &str = "0.14.1";

const USAGE: &str = "\
usage: cargo xtask test [FILTER…]   install what the tests need, then run all of them
       cargo xtask lint             fmt, clippy, rustdoc, tidy, licences and bans
       cargo xtask bench [--peers] [ARG…]   the criterion benchmarks; --peers installs what they are held against";

fn main() -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "this is the command line")]
    let args: Vec<String> = env::args().skip(1).collect();
    let (task, rest) = match args.split_first() {
        Some((task, rest)) => (task.as_str(), rest),
        None => ("", &[][..]),
    };
    let done = match task {
        "test" => test(rest),
        "lint" => lint(),
        "bench" => bench(rest),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn test(filter: &[String]) -> Result<(), String> {
    install(TEST_TOOLS, "the tests need")?;
    install_program("s3s-fs", S3S_FS, &["--features", "binary"])?;
    run(cargo(&["test", "--workspace"]).args(filter))?;
    // The examples assert what they show, so running them is testing them.
    for example in examples()? {
        run(&mut cargo(&[
            "run",
            "--quiet",
            "--package",
            "danube-examples",
            "--example",
            &example,
        ]))?;
    }
    Ok(())
}

fn lint() -> Result<(), String> {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    run(&mut cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ]))?;
    // What can be used alone is built alone; together the features hide what one of them lacks.
    for feature in ["attest", "archive", "store", "s3"] {
        run(cargo(&["clippy", "--package", "danube-artifacts", "--no-default-features"]).args([
            "--features",
            feature,
            "--",
            "-D",
            "warnings",
        ]))?;
    }
    run(cargo(&["doc", "--workspace", "--no-deps", "--all-features"])
        .env("RUSTDOCFLAGS", "-D warnings"))?;
    run(&mut cargo(&["test", "--quiet", "--package", "xtask"]))?;
    let deny = install_program("cargo-deny", CARGO_DENY, &[])?;
    run(Command::new(deny).current_dir(root()).args(["check", "licenses", "bans", "sources"]))
}

fn bench(args: &[String]) -> Result<(), String> {
    let (peers, args): (Vec<&String>, Vec<&String>) =
        args.iter().partition(|arg| *arg == "--peers");
    if !peers.is_empty() {
        install(BENCH_PEERS, "the benchmarks are held against")?;
    }
    run(cargo(&["bench", "--package", "danube-benches"]).args(args))
}

/// Installs missing tools with apt-get as root; otherwise names them. Never skips.
fn install(tools: &[(&str, &'static str)], why: &str) -> Result<(), String> {
    let missing: Vec<&str> = tools
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("xtask: {why} {}", missing.join(" "));
    let install = |run_update: bool| -> Result<(), String> {
        if run_update {
            run(Command::new("apt-get").args(["-qq", "update"]))?;
        }
        run(Command::new("apt-get")
            .args(["-qq", "install", "-y", "--no-install-recommends"])
            .args(&missing)
            .env("DEBIAN_FRONTEND", "noninteractive"))
    };
    install(true).map_err(|e| {
        format!("{e}\nxtask: install them by hand: sudo apt-get install {}", missing.join(" "))
    })
}

fn is_installed(program: &str) -> bool {
    #[expect(clippy::disallowed_methods, reason = "this is the command line")]
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// A program of this version from crates.io in the target directory, so that nothing of the user's own is touched.
fn install_program(name: &str, version: &str, features: &[&str]) -> Result<PathBuf, String> {
    let tools = target_dir()?.join("tools");
    let binary = tools.join("bin").join(name);
    let is_right = Command::new(&binary).arg("--version").output().is_ok_and(|out| {
        String::from_utf8_lossy(&out.stdout).trim() == format!("{name} {version}")
    });
    if !is_right {
        // A debug build: it compiles in a third of the time, and nobody waits for what it does.
        let mut install =
            cargo(&["install", name, "--version", version, "--locked", "--debug", "--force"]);
        install.args(features).arg("--root").arg(&tools);
        // Its sources may name a toolchain of their own, which rustup would go by.
        let rustc = Path::new(install.get_program()).with_file_name("rustc");
        if rustc.is_file() {
            install.env("RUSTC", rustc);
        }
        run(&mut install)?;
    }
    Ok(binary)
}

fn examples() -> Result<Vec<String>, String> {
    let metadata = metadata()?;
    let examples = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|package| package["name"] == "danube-examples")
        .flat_map(|package| package["targets"].as_array().into_iter().flatten())
        .filter(|target| target["kind"][0] == "example")
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect::<Vec<_>>();
    if examples.is_empty() { Err("no examples found".into()) } else { Ok(examples) }
}

fn target_dir() -> Result<PathBuf, String> {
    metadata()?["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| "no target directory".into())
}

fn metadata() -> Result<serde_json::Value, String> {
    let out = cargo(&["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .map_err(|e| format!("cannot run cargo metadata: {e}"))?;
    serde_json::from_slice(&out.stdout).map_err(|e| format!("cargo metadata: {e}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies below the root")
}

fn cargo(args: &[&str]) -> Command {
    // The cargo that runs us, as cargo itself tells.
    #[expect(clippy::disallowed_methods, reason = "this is the command line")]
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root()).args(args);
    command
}

fn run(command: &mut Command) -> Result<(), String> {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let shown = words.join(" ");
    eprintln!("xtask: {shown}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{shown}: {status}")),
        Err(e) => Err(format!("{shown}: {e}")),
    }
}
