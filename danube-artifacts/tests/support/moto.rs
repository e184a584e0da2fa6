//! A server of S3 that is not ours: moto, which keeps everything in memory. A test that wants one includes
//! `python.rs` as `crate::python`, and then this file by its path.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use crate::python::python;

/// What is installed from the Python package index, with everything it needs.
pub(crate) const PACKAGES: &[&str] = &["moto[s3]==5.2.5", "flask==3.1.3", "flask-cors==6.0.5"];

/// It takes a free port, says which when it answers, and ends with whoever holds its standard input: a test
/// that is killed leaves no server behind.
/// Parts may be small, so that a test of many parts is quick. ListParts is answered under the name that S3 gives
/// it; moto 5.2.5 calls it `ListPartsResponse`, which only its own client reads.
const SERVER: &str = "\
import os, sys
os.environ['S3_UPLOAD_PART_MIN_SIZE'] = '1024'
from moto.server import ThreadedMotoServer
from moto.core.serialize import S3Serializer
body = S3Serializer._serialize_body
S3Serializer._serialize_body = lambda self, value: body(self, value).replace('ListPartsResponse', 'ListPartsResult')
server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
";

/// Who asks without it is anonymous, and sees no object.
pub(crate) const AUTHORIZATION: &str =
    "Authorization: AWS4-HMAC-SHA256 Credential=test/20240106/us-east-1/s3/aws4_request";

/// A server on the loopback address, gone with its owner. It takes any credentials.
pub(crate) struct Moto {
    server: Child,
    port: u16,
}

impl Moto {
    /// Starts one and waits until it answers.
    pub(crate) fn start() -> Self {
        let mut command = Command::new(python("python-moto", PACKAGES));
        command.args(["-c", SERVER]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = command.stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| panic!("moto did not start: {line:?}"));
        Self { server, port }
    }

    /// What a client takes as its endpoint; buckets are in the path.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// One request: its status, and the body of its answer.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let (port, length) = (self.port, body.len());
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
             {AUTHORIZATION}\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    /// The same, which must succeed.
    #[track_caller]
    pub(crate) fn expect(&self, method: &str, path: &str, body: &str) -> String {
        let (status, said) = self.request(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {said}");
        said
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
