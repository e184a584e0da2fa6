//! `danube artifacts url` and `adopt`, and curl in between.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::harness::{Danube, contains, said, stderr, wait_until};
use crate::serve::Server;

const NAME: &str = "o ut/ä+%41&x=1.txt";

/// A job with one artifact of ten bytes.
fn a_job(danube: &Danube) {
    let script = format!("mkdir 'o ut'; printf 0123456789 > '{NAME}'");
    danube.expect(0, &["run", "--artifact", "o ut/*", "--", "sh", "-c", &script]);
}

/// What `danube artifacts url` prints, with the address that the server really has.
fn link(danube: &Danube, server: &Server, name: &str, more: &[&str]) -> String {
    let printed = danube.expect(0, &[&["artifacts", "url", "latest", name], more].concat());
    let url = printed.strip_suffix('\n').unwrap();
    format!("{}{}", server.base, url.strip_prefix("http://127.0.0.1:8080").unwrap())
}

/// The status and the body.
fn curl(url: &str, more: &[&str]) -> (u16, Vec<u8>) {
    let out = Command::new("curl")
        .args(["-sS", "--globoff", "--path-as-is", "--max-time", "30", "-w", "%{http_code}"])
        .args(more)
        .arg(url)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", said(&out));
    let (body, status) = out.stdout.split_at(out.stdout.len() - 3);
    (std::str::from_utf8(status).unwrap().parse().unwrap(), body.to_vec())
}

/// The code of the problem that is answered.
fn refused(url: &str, more: &[&str]) -> (u16, String) {
    let (status, body) = curl(url, more);
    let problem: serde_json::Value = serde_json::from_slice(&body)
        .unwrap_or_else(|e| panic!("{e}: {status} {}", String::from_utf8_lossy(&body)));
    (status, problem["code"].as_str().unwrap().to_owned())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_link_gives_an_artifact_to_whoever_has_it() {
    let danube = Danube::new();
    a_job(&danube);
    let server = Server::start(&danube);
    let url = link(&danube, &server, NAME, &[]);
    assert!(url.contains("/o%20ut/%C3%A4%2B%2541%26x%3D1.txt?method=GET&expires="), "{url}");
    assert_eq!(curl(&url, &[]), (200, b"0123456789".to_vec()));
    assert_eq!(curl(&url, &["-r", "2-3"]), (206, b"23".to_vec()));
    assert_eq!(curl(&url, &["--http2-prior-knowledge"]), (200, b"0123456789".to_vec()));
    let (_, head) = curl(&url, &["-I"]);
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    for expected in [
        "http/1.1 200 ok",
        "content-length: 10\r\n",
        "content-type: text/plain\r\n",
        "content-disposition: attachment; filename=",
        "x-content-type-options: nosniff\r\n",
        "cache-control: no-store\r\n",
        "referrer-policy: no-referrer\r\n",
    ] {
        assert!(head.contains(expected), "{expected}: {head}");
    }
    assert!(!head.contains("access-control"), "{head}");
    let part = link(&danube, &server, NAME, &["--range", "3-7"]);
    assert_eq!(curl(&part, &[]), (200, b"34567".to_vec()));
    assert_eq!(curl(&part, &["-r", "1-2"]), (206, b"45".to_vec()));
    assert_eq!(curl(&part, &["-r", "5-9"]).0, 416);

    let as_json = ["artifacts", "url", "latest", NAME, "--expires", "7d", "--output", "json"];
    let told = danube.json(&as_json);
    assert_eq!(
        (told["method"].as_str(), told["headers"].as_array().unwrap().len()),
        (Some("GET"), 0)
    );
    assert!(told["url"].as_str().unwrap().starts_with("http://127.0.0.1:8080/api/v1/links/"));

    let short = link(&danube, &server, NAME, &["--expires", "1s"]);
    wait_until("the link expires", || curl(&short, &[]).0 == 403);
    assert_eq!(refused(&short, &[]), (403, "link_expired".into()));
    danube.expect(0, &["artifacts", "delete", "latest", NAME]);
    assert_eq!(refused(&url, &[]), (404, "artifact_not_found".into()));
    danube.expect(1, &["artifacts", "url", "latest", NAME]);
    for wrong in [
        &["--expires", "8d"][..],
        &["--expires", "0s"],
        &["--range", "5-4"],
        &["--size", "1"],
        &["--put", "--range", "0-1"],
        &["--put", "--size", "5000000001"],
    ] {
        danube.expect(2, &[&["artifacts", "url", "latest", "a"], wrong].concat());
    }
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_link_that_was_changed_gives_nothing() {
    let danube = Danube::new();
    a_job(&danube);
    danube.expect(
        0,
        &["run", "--artifact", "*.txt", "--", "sh", "-c", "echo b > b.txt; echo a > a.txt"],
    );
    let server = Server::start(&danube);
    let url = link(&danube, &server, "a.txt", &["--range", "0-0"]);
    assert_eq!(curl(&url, &[]), (200, b"a".to_vec()));
    let job = danube.jobs()[0]["id"].as_str().unwrap().to_owned();
    let other = danube.jobs()[1]["id"].as_str().unwrap().to_owned();
    let field = |name: &str| {
        let rest = url.split_once(&format!("{name}=")).unwrap().1;
        rest.split('&').next().unwrap().to_owned()
    };
    let flipped = |text: &str| text.replacen(|c| c != '0', "0", 1);
    let (key, signature, expires) = (field("key"), field("signature"), field("expires"));
    let moved = url.replace(&format!("&key={key}"), "").replace("?", &format!("?key={key}&"));
    let changed = [
        url.replace(&job, &other),
        url.replace(&job, &job.to_uppercase()),
        url.replace("a.txt", "b.txt"),
        url.replace("a.txt", "A.txt"),
        url.replace("a.txt", "a.txt/"),
        url.replace("a.txt", "x/../a.txt"),
        url.replace("a.txt", "x/..%2fa.txt"),
        url.replace("a.txt", "..%2f..%2f..%2fkeys%2flinks.key"),
        url.replace("a.txt", "../../../keys/links.key"),
        url.replace("a.txt", "%252e%252e/a.txt"),
        url.replace("a.txt", "%61.txt"),
        url.replace("a.txt", "a%2Etxt"),
        url.replace("a.txt", "a.txt%00"),
        url.replace("method=GET", "method=PUT"),
        url.replace("method=GET", "method=get"),
        url.replace("range=0-0", "range=0-1"),
        url.replace("&range=0-0", ""),
        url.replace(&expires, "9999999999"),
        url.replace(&key, &flipped(&key)),
        url.replace(&signature, &flipped(&signature)),
        url.replace(&signature, &signature.to_uppercase()),
        url.replace(&signature, &signature[..63]),
        url.replace(&format!("&signature={signature}"), ""),
        url.replace("&key=", "&size=1&key="),
        format!("{url}&x=1"),
        format!("{url}&method=GET"),
        format!("{url}&x={}", "y".repeat(8_000)),
        moved,
    ];
    for changed in &changed {
        assert_ne!(*changed, url);
        assert_eq!(refused(changed, &[]), (403, "link_refused".into()), "{changed}");
    }
    // More than any header may be.
    let oversized = format!("{url}&x={}", "y".repeat(100_000));
    assert!([414, 431].contains(&curl(&oversized, &[]).0));
    let put = ["-X", "PUT", "--data-binary", "z"];
    assert_eq!(refused(&url, &put), (403, "link_refused".into()));
    assert_eq!(curl(&url, &["-X", "DELETE"]).0, 405);
    assert_eq!(curl(&url, &["-H", "Host: evil.example"]).0, 421);

    // Somebody else's server has another key, and another data directory the same names.
    let stranger = Danube::new();
    fs::create_dir(stranger.data().join("artifacts")).unwrap();
    let theirs = Server::start(&stranger);
    let there = url.replace(&server.base, &theirs.base);
    assert_eq!(refused(&there, &[]), (403, "link_refused".into()));
    // The key removed and the server started again, no link holds.
    server.stop();
    fs::remove_file(danube.data().join("keys/links.key")).unwrap();
    let again = Server::start(&danube);
    let there = url.replace(&url[..again.base.len()], &again.base);
    assert_eq!(refused(&there, &[]), (403, "link_refused".into()));
    assert_eq!(curl(&link(&danube, &again, "a.txt", &[]), &[]).0, 200);
}

#[test]
fn what_is_put_by_a_link_is_adopted_and_verifies() {
    let danube = Danube::new();
    a_job(&danube);
    let server = Server::start(&danube);
    let bytes: Vec<u8> = (0..3_000_000_u64).map(|at| ((at * at) >> 7) as u8).collect();
    let (file, digest) = (danube.work().join("big.bin"), sha256(&bytes));
    fs::write(&file, &bytes).unwrap();
    let (file, size) = (file.to_str().unwrap(), bytes.len().to_string());
    let exact = ["--put", "--size", &size, "--sha256", &digest];
    let url = link(&danube, &server, "in/ü x.bin", &exact);
    // Too few, too many, others; with and without a length.
    let wrong = danube.work().join("wrong.bin");
    let mut other = bytes.clone();
    other[7] ^= 1;
    for body in [&bytes[1..], &[&bytes[..], b"1"].concat(), &other] {
        fs::write(&wrong, body).unwrap();
        let sent = ["-T", wrong.to_str().unwrap()];
        assert_eq!(refused(&url, &sent), (400, "invalid_request".into()));
        let chunked = ["-H", "Transfer-Encoding: chunked", sent[0], sent[1]];
        assert_eq!(refused(&url, &chunked), (400, "invalid_request".into()));
    }
    let adopt = ["artifacts", "adopt", "latest", "in/ü x.bin", "--tag", "by=link"];
    danube.expect(1, &adopt);
    let (status, stored) = curl(&url, &["-T", file]);
    let stored: serde_json::Value = serde_json::from_slice(&stored).unwrap();
    assert_eq!((status, stored["sha256"].as_str()), (201, Some(&*digest)));
    assert_eq!(refused(&url, &["-T", file]), (409, "conflict".into()));
    let listed =
        || danube.json(&["artifacts", "list", "latest", "--output", "json"])["artifacts"].clone();
    assert_eq!(listed().as_array().unwrap().len(), 1, "nobody sees it yet");
    danube.expect(1, &["artifacts", "url", "latest", "in/ü x.bin"]);

    let refuse = danube.run(&[&adopt[..], &["--size", "1"]].concat());
    assert_eq!(refuse.status.code(), Some(2), "{}", said(&refuse));
    let adopted = danube.run(&[&adopt[..], &["--sha256", &digest]].concat());
    assert!(adopted.status.success() && stderr(&adopted).contains(&digest), "{}", said(&adopted));
    danube.expect(0, &adopt);
    let all = listed();
    assert_eq!(all[0]["name"], "in/ü x.bin");
    assert_eq!(
        (&all[0]["sha256"], &all[0]["tags"]["by"]),
        (&digest.clone().into(), &"link".into())
    );
    let job = all[0]["job"].as_str().unwrap().to_owned();
    let dir = danube.data().join("artifacts").join(job);
    let records = fs::read(dir.join(".danube/metadata.json")).unwrap();
    assert!(contains(&records, digest.as_bytes()), "{}", String::from_utf8_lossy(&records));
    let path = dir.join("in/ü x.bin");
    danube.expect(0, &["verify-artifact", path.to_str().unwrap(), "--signature-only"]);
    let get = link(&danube, &server, "in/ü x.bin", &[]);
    assert!(curl(&get, &[]) == (200, bytes));
    // What nobody adopts can be deleted by hand, and its name is free again.
    let other = link(&danube, &server, "other", &["--put"]);
    assert_eq!(curl(&other, &["-T", file, "--http2-prior-knowledge"]).0, 201);
    danube.expect(0, &["artifacts", "delete", "latest", "other"]);
    danube.expect(1, &["artifacts", "delete", "latest", "other"]);
    assert_eq!(curl(&other, &["-T", file]).0, 201);
}

#[test]
fn no_log_of_the_server_has_a_link_in_it() {
    let danube = Danube::new();
    a_job(&danube);
    let told = danube.work().join("stderr");
    let mut command = danube.command(&["serve", "--port", "0"]);
    command.env("DANUBE_LOG", "trace").stderr(fs::File::create(&told).unwrap());
    let server = Server::spawn(&mut command);
    let get = link(&danube, &server, NAME, &[]);
    let put = link(&danube, &server, "new", &["--put", "--size", "1"]);
    for more in [&[][..], &["--http2-prior-knowledge"], &["-X", "PUT", "--data-binary", "zz"]] {
        for url in [&get, &put, &format!("{get}0"), &get.replace("/links/", "/link/")] {
            curl(url, more);
        }
    }
    assert_eq!(server.stop(), Some(0));
    let told = fs::read(told).unwrap();
    assert!(!told.is_empty());
    for url in [&get, &put] {
        let signature = url.split_once("signature=").unwrap().1;
        assert!(
            !contains(&told, &signature.as_bytes()[..32]),
            "{}",
            String::from_utf8_lossy(&told)
        );
    }
}

#[test]
fn a_page_of_a_configured_origin_may_use_links() {
    let danube = Danube::new();
    a_job(&danube);
    let config = danube.work().join("danube.toml");
    fs::write(
        &config,
        "[artifacts]\nmax_file_bytes = 20\ncors_origins = [\"https://ci.example\"]\n[serve]\npublic_url = \"https://ci.example/files/\"\n",
    )
    .unwrap();
    let with = |args: &[&str]| {
        let mut command = danube.command(args);
        command.env("DANUBE_CONFIG", &config);
        command
    };
    let server = Server::spawn(&mut with(&["serve", "--port", "0"]));
    let out = with(&["artifacts", "url", "latest", "new", "--put"]).output().unwrap();
    let url = String::from_utf8(out.stdout).unwrap();
    let target = url.trim_end().strip_prefix("https://ci.example/files").unwrap();
    let url = format!("{}{target}", server.base);
    let preflight = |origin: &str| {
        let origin = format!("Origin: {origin}");
        let more =
            ["-i", "-X", "OPTIONS", "-H", &origin, "-H", "Access-Control-Request-Method: PUT"];
        String::from_utf8(curl(&url, &more).1).unwrap().to_ascii_lowercase()
    };
    let allowed = preflight("https://ci.example");
    assert!(allowed.contains("access-control-allow-origin: https://ci.example\r\n"), "{allowed}");
    let refused_origin = preflight("https://evil.example");
    assert!(!refused_origin.contains("access-control-allow-origin"), "{refused_origin}");
    let large = "x".repeat(21);
    let put = ["-X", "PUT", "--data-binary", &large, "-H", "Origin: https://ci.example"];
    assert_eq!(refused(&url, &put), (413, "too_large".into()));
    // A length that is announced is refused before the first byte of it comes.
    let address = server.base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "PUT {target} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 21\r\n\r\n")
        .unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 413");
    let put = ["-i", "-X", "PUT", "--data-binary", "x", "-H", "Origin: https://ci.example"];
    let (status, answer) = curl(&url, &put);
    assert_eq!(status, 201);
    assert!(contains(&answer, b"https://ci.example"), "{}", String::from_utf8_lossy(&answer));
}
