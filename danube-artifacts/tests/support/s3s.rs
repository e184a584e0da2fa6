//! A server of S3 that is not ours: s3s-fs, which keeps files. A test that wants one includes this file by its path.

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

/// It says which free port it took, and ends, with all that it keeps, when nobody holds its standard input any more: a
/// test that is killed leaves neither a server nor files behind.
const SERVER: &str = r#"
trap : INT HUP TERM
root=$(mktemp -d) || exit
RUST_LOG=s3s_fs=info "$0" --host 127.0.0.1 --port 0 --access-key danube --secret-key danube-secret "$root" 2>&1 &
exec >/dev/null
read -r end
kill $! 2>/dev/null
wait
rm -rf "$root"
"#;

const PORT_FOLLOWS: &str = "server is running at http://127.0.0.1:";

/// A server on the loopback address, gone with its owner. It knows one pair of credentials, `danube` and
/// `danube-secret`.
pub(crate) struct S3s {
    server: Child,
    port: u16,
}

impl S3s {
    /// Starts one and waits until it answers.
    pub(crate) fn start() -> Self {
        let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let program = target_dir.join("tools/bin/s3s-fs");
        assert!(program.is_file(), "no {}: `cargo xtask test` installs it", program.display());
        let mut command = Command::new("sh");
        command.args(["-c", SERVER]).arg(program).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = command.spawn().unwrap();
        let mut said = BufReader::new(server.stdout.take().unwrap());
        let mut lines = String::new();
        let port = loop {
            let start = lines.len();
            assert_ne!(said.read_line(&mut lines).unwrap(), 0, "s3s-fs did not start: {lines}");
            if let Some((_, port)) = lines[start..].split_once(PORT_FOLLOWS) {
                let digits = port.split(|c: char| !c.is_ascii_digit()).next().unwrap();
                break digits.parse().unwrap();
            }
        };
        // It writes on, and must not wait for a reader.
        thread::spawn(move || io::copy(&mut said, &mut io::sink()));
        Self { server, port }
    }

    /// What a client takes as its endpoint; buckets are in the path.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for S3s {
    fn drop(&mut self) {
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}
