//! Links: what each allows, and that it allows nothing else.

use axum::http::Method;
use danube_artifacts::{BlobKey, BlobStore, LinkOptions};
use danube_core::{ByteRange, Sha256Digest};
use sha2::{Digest as _, Sha256};

use super::*;

const BASE: &str = "http://127.0.0.1:8080";

impl Fixture {
    /// The path and query of a link.
    async fn link(&self, job: &JobId, name: &str, options: LinkOptions) -> String {
        let name: ArtifactName = name.parse().unwrap();
        let link = self.artifacts.link(job, &name, &options).await.unwrap();
        link.url.strip_prefix(BASE).unwrap().to_owned()
    }

    async fn put(&self, link: &str, body: &'static [u8]) -> Answer {
        self.send(Method::PUT, link, &[], Body::from(body)).await
    }
}

fn digest(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::from_bytes(Sha256::digest(bytes).into())
}

#[tokio::test]
async fn a_link_to_get_gives_one_artifact_as_the_download_does() {
    let fixture = Fixture::new();
    let job = fixture.job("job-0001").await;
    fixture.keep(&job, "o ut/ä%41.txt", b"0123456789").await;
    let link = fixture.link(&job, "o ut/ä%41.txt", LinkOptions::get()).await;
    let all = fixture.get(&link).await;
    assert_eq!((all.status.as_u16(), &all.body[..]), (200, &b"0123456789"[..]));
    let download = fixture.get("/api/v1/jobs/job-0001/artifacts/o%20ut/%C3%A4%2541.txt").await;
    for (name, value) in &download.headers {
        if name != "cache-control" {
            assert_eq!(all.headers.get(name), Some(value), "{name}");
        }
    }
    assert!(all.header("content-disposition").unwrap().starts_with("attachment; "));
    for (name, value) in [
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(all.header(name), Some(value), "{name}");
    }
    let head = fixture.ask(Method::HEAD, &link, &[]).await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some("10"));
    let part = fixture.ask(Method::GET, &link, &[("range", "bytes=2-3")]).await;
    assert_eq!((part.status.as_u16(), &part.body[..]), (206, &b"23"[..]));
    assert_eq!(part.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn a_link_to_a_range_gives_that_range_and_ranges_of_it() {
    let fixture = Fixture::new();
    let job = fixture.job("job-0001").await;
    fixture.keep(&job, "a.txt", b"0123456789").await;
    let range = |start, end| LinkOptions::get().with_range(ByteRange::new(start, end));
    let link = fixture.link(&job, "a.txt", range(3, 8)).await;
    let all = fixture.get(&link).await;
    assert_eq!((all.status.as_u16(), &all.body[..]), (200, &b"34567"[..]));
    assert_eq!((all.header("content-length"), all.header("etag")), (Some("5"), None));
    for (asked, status, bytes, told) in [
        ("bytes=0-0", 206, &b"3"[..], Some("bytes 0-0/5")),
        ("bytes=1-", 206, b"4567", Some("bytes 1-4/5")),
        ("bytes=-2", 206, b"67", Some("bytes 3-4/5")),
        ("bytes=2-999", 206, b"567", Some("bytes 2-4/5")),
        ("bytes=0-1,3-4", 200, b"34567", None),
    ] {
        let part = fixture.ask(Method::GET, &link, &[("range", asked)]).await;
        assert_eq!((part.status.as_u16(), &part.body[..]), (status, bytes), "{asked}");
        assert_eq!(part.header("content-range"), told, "{asked}");
    }
    let beyond = fixture.ask(Method::GET, &link, &[("range", "bytes=5-")]).await;
    assert_eq!(beyond.problem(), (416, "range_not_satisfiable".into()));
    assert_eq!(beyond.header("content-range"), Some("bytes */5"));
    // It ends where the artifact does.
    let link = fixture.link(&job, "a.txt", range(8, 100)).await;
    assert_eq!(&fixture.get(&link).await.body[..], b"89");
}

#[tokio::test]
async fn a_link_ends_with_its_time_its_artifact_and_its_key() {
    let mut fixture = Fixture::new();
    let job = fixture.job("job-0001").await;
    fixture.keep(&job, "a.txt", b"1").await;
    let link = fixture.link(&job, "a.txt", LinkOptions::get()).await;
    fixture.clock.advance(Duration::from_secs(899));
    assert_eq!(fixture.get(&link).await.status, 200);
    fixture.clock.advance(Duration::from_secs(1));
    let expired = fixture.get(&link).await;
    assert_eq!(expired.problem(), (403, "link_expired".into()));
    assert_eq!(expired.header("cache-control"), Some("no-store"));

    let link = fixture.link(&job, "a.txt", LinkOptions::get()).await;
    fixture.artifacts.delete(&job, &"a.txt".parse().unwrap()).await.unwrap();
    assert_eq!(fixture.get(&link).await.problem(), (404, "artifact_not_found".into()));

    fixture.keep(&job, "a.txt", b"1").await;
    assert_eq!(fixture.get(&link).await.status, 200);
    fixture.link_key = LinkKey::generate().unwrap();
    assert_eq!(fixture.get(&link).await.problem(), (403, "link_refused".into()));
}

#[tokio::test]
async fn what_was_changed_is_refused_and_nothing_of_it_is_told_back() {
    let fixture = Fixture::new();
    let job = fixture.job("job-0001").await;
    let other = fixture.job("job-0002").await;
    for job in [&job, &other] {
        fixture.keep(job, "out/a.txt", b"0123456789").await;
        fixture.keep(job, "out/b.txt", b"secret").await;
    }
    let range = LinkOptions::get().with_range(ByteRange::new(0, 3));
    let link = fixture.link(&job, "out/a.txt", range).await;
    assert_eq!(fixture.get(&link).await.status, 200);
    let signature = link.split_once("&signature=").unwrap().1;
    for (from, to) in [
        ("job-0001", "job-0002"),
        ("job-0001", "JOB-0001"),
        ("job-0001", "latest"),
        ("a.txt", "b.txt"),
        ("a.txt", "A.txt"),
        ("a.txt", "a.txt/"),
        ("a.txt", "a.txt%00"),
        ("a.txt", "..%2fout%2fa.txt"),
        ("a.txt", "%2e%2e/out/a.txt"),
        ("a.txt", "..%252fout/a.txt"),
        ("a.txt", "../../job-0002/out/b.txt"),
        ("out/a.txt", ".danube/signatures/out/a.txt.sig"),
        ("out/", "out%2F"),
        ("a.txt", "%61.txt"),
        ("range=0-2", "range=0-9"),
        ("range=0-2&", ""),
        ("method=GET", "method=PUT"),
        ("expires=", "expires=9"),
        ("&key=", "&size=3&key="),
        ("&key=", "&x=1&key="),
        ("&signature=", "&signature=0&signature="),
        (signature, &"0".repeat(64)),
        (signature, ""),
        (signature, &signature.to_uppercase()),
        (signature, &format!("{signature}&x={}", "y".repeat(20_000))),
    ] {
        let changed = link.replacen(from, to, 1);
        assert_ne!(changed, link);
        let refused = fixture.get(&changed).await;
        assert_eq!(refused.problem(), (403, "link_refused".into()), "{changed}");
        let told = String::from_utf8_lossy(&refused.body);
        assert!(!told.contains(&signature[..16]), "{told}");
    }
    for (path, status) in [("/api/v1/links/job-0001/out/a.txt", 403), ("/api/v1/links/", 404)] {
        assert_eq!(fixture.get(path).await.status, status, "{path}");
    }
    // The other routes know nothing of links.
    let elsewhere = link.replace("/links/job-0001/", "/jobs/job-0001/artifacts/");
    assert_eq!(fixture.get(&elsewhere).await.status, 400);
}

#[tokio::test]
async fn a_link_is_for_its_method_alone() {
    let fixture = Fixture::new();
    let job = fixture.job("job-0001").await;
    fixture.keep(&job, "a", b"1").await;
    let (get, put) = (
        fixture.link(&job, "a", LinkOptions::get()).await,
        fixture.link(&job, "b", LinkOptions::put()).await,
    );
    assert_eq!(fixture.put(&get, b"2").await.problem(), (403, "link_refused".into()));
    for method in [Method::GET, Method::HEAD] {
        assert_eq!(fixture.ask(method, &put, &[]).await.status, 403);
    }
    for (link, method) in [(&get, Method::POST), (&put, Method::DELETE), (&put, Method::PATCH)] {
        let refused = fixture.ask(method, link, &[("x-http-method-override", "PUT")]).await;
        assert_eq!(refused.problem(), (405, "method_not_allowed".into()));
        assert_eq!(refused.header("cache-control"), Some("no-store"));
    }
    let untouched = fixture.get("/api/v1/jobs/job-0001/artifacts/a").await;
    assert_eq!(&untouched.body[..], b"1");
}

#[tokio::test]
async fn what_is_put_by_a_link_is_an_artifact_once_it_was_adopted() {
    let fixture = Fixture::new();
    let job = fixture.job("job-0001").await;
    let name: ArtifactName = "in/a.bin".parse().unwrap();
    let put = fixture.link(&job, "in/a.bin", LinkOptions::put()).await;
    let stored = fixture.put(&put, b"hello").await;
    assert_eq!(stored.status, 201);
    assert_eq!(stored.json()["size_bytes"], 5);
    assert_eq!(stored.json()["sha256"], digest(b"hello").to_string());
    assert_eq!(stored.header("cache-control"), Some("no-store"));
    // It cannot be put again, and nobody gets it yet.
    assert_eq!(fixture.put(&put, b"other").await.problem(), (409, "conflict".into()));
    assert_eq!(fixture.get("/api/v1/jobs/job-0001/artifacts/in/a.bin").await.status, 404);
    let get = LinkOptions::get();
    assert!(fixture.artifacts.link(&job, &name, &get).await.is_err());

    let adopted = fixture.artifacts.adopt(&job, &name, KeepOptions::default()).await.unwrap();
    assert_eq!(adopted.digest, digest(b"hello"));
    fixture.artifacts.sign(&adopted).await.unwrap();
    let get = fixture.link(&job, "in/a.bin", get).await;
    assert_eq!(&fixture.get(&get).await.body[..], b"hello");
    assert_eq!(fixture.put(&put, b"other").await.problem(), (409, "conflict".into()));
}

#[tokio::test]
async fn a_put_that_is_not_what_the_link_says_leaves_nothing() {
    let fixture = Fixture::new();
    let job = fixture.job("job-0001").await;
    let exact = LinkOptions::put().with_size_bytes(5).with_expected(digest(b"hello"));
    let link = fixture.link(&job, "a", exact).await;
    let chunked = |bytes: &'static [u8]| {
        Body::from_stream(futures_util::stream::iter(bytes.chunks(2).map(Ok::<_, std::io::Error>)))
    };
    for wrong in [&b""[..], b"hell", b"hello!", b"hullo"] {
        for body in [Body::from(wrong), chunked(wrong)] {
            let refused = fixture.send(Method::PUT, &link, &[], body).await;
            assert_eq!(refused.problem(), (400, "invalid_request".into()), "{wrong:?}");
        }
    }
    let part = [("content-range", "bytes 0-4/10")];
    let refused = fixture.send(Method::PUT, &link, &part, Body::from("hello")).await;
    assert_eq!(refused.problem(), (400, "invalid_request".into()));
    let broken = Body::from_stream(futures_util::stream::iter([
        Ok(&b"hel"[..]),
        Err(std::io::Error::other("gone")),
    ]));
    let refused = fixture.send(Method::PUT, &link, &[], broken).await;
    assert_eq!(refused.problem(), (503, "artifact_not_ready".into()));

    let any = fixture.link(&job, "b", LinkOptions::put()).await;
    for body in [Body::from(vec![7; 1001]), chunked(&[7; 1001])] {
        let refused = fixture.send(Method::PUT, &any, &[], body).await;
        assert_eq!(refused.problem(), (413, "too_large".into()));
    }
    assert!(fixture.artifacts.blobs().list(&job).await.unwrap().is_empty());
    let stored = fixture.send(Method::PUT, &link, &[], chunked(b"hello")).await;
    assert_eq!(stored.status, 201);
    assert_eq!(fixture.send(Method::PUT, &any, &[], Body::from(vec![7; 1000])).await.status, 201);
}

#[tokio::test]
async fn puts_at_once_are_bounded_and_a_broken_one_leaves_nothing() {
    let fixture = Fixture::new();
    let job = fixture.job("job-0001").await;
    let router = fixture.router();
    let link = fixture.link(&job, "a", LinkOptions::put()).await;
    let ask = |body: Body| {
        let request = Request::put(&*link).header("host", "localhost").body(body).unwrap();
        answer(router.clone(), request)
    };
    let (begun, mut beginnings) = tokio::sync::mpsc::unbounded_channel();
    let stalled = || {
        let begun = begun.clone();
        let body = futures_util::stream::once(async move {
            begun.send(()).unwrap();
            std::future::pending::<Result<Bytes, std::io::Error>>().await
        });
        tokio::spawn(ask(Body::from_stream(body)))
    };
    let stalled: Vec<_> = (0..16).map(|_| stalled()).collect();
    for _ in &stalled {
        tokio::time::timeout(DEADLINE, beginnings.recv()).await.unwrap().unwrap();
    }
    let refused = ask(Body::from("late")).await;
    assert_eq!(refused.problem(), (503, "unavailable".into()));
    assert!(refused.header("retry-after").is_some());
    // One is given up by its client, and its place is free.
    for put in stalled {
        put.abort();
        assert!(put.await.unwrap_err().is_cancelled());
    }
    assert!(fixture.artifacts.blobs().list(&job).await.unwrap().is_empty());
    assert_eq!(ask(Body::from("late")).await.status, 201);
}

#[tokio::test]
async fn a_name_that_was_taken_meanwhile_stays_what_it_is() {
    let fixture = Fixture::new();
    let job = fixture.job("job-0001").await;
    let link = fixture.link(&job, "a", LinkOptions::put()).await;
    fixture.upload(&job, "a", b"mine").await;
    assert_eq!(fixture.put(&link, b"theirs").await.problem(), (409, "conflict".into()));
    // Also while its bytes are gone and its record is not.
    let key = BlobKey::artifact(&job, &"a".parse().unwrap());
    fixture.artifacts.blobs().delete(&key).await.unwrap();
    assert_eq!(fixture.put(&link, b"theirs").await.problem(), (409, "conflict".into()));
}

#[tokio::test]
async fn pages_of_an_allowed_origin_may_use_links_and_nothing_else() {
    let fixture = Fixture::new();
    let job = fixture.job("job-0001").await;
    fixture.keep(&job, "a", b"1").await;
    let get = fixture.link(&job, "a", LinkOptions::get()).await;
    let put = fixture.link(&job, "b", LinkOptions::put()).await;
    let preflight = async |path: &str, origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "content-type"),
        ];
        fixture.ask(Method::OPTIONS, path, &headers).await
    };
    let allowed = preflight(&put, "https://ci.example").await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://ci.example"));
    assert!(allowed.header("access-control-allow-methods").unwrap().contains("PUT"));
    assert_eq!(allowed.header("access-control-allow-credentials"), None);
    for origin in ["https://evil.example", "null", "https://ci.example.evil.example"] {
        let refused = preflight(&put, origin).await;
        assert_eq!(refused.header("access-control-allow-origin"), None, "{origin}");
        let answer = fixture.ask(Method::GET, &get, &[("origin", origin)]).await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{origin}");
    }
    let origin = [("origin", "https://ci.example")];
    let answer = fixture.ask(Method::GET, &get, &origin).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://ci.example"));
    assert!(answer.header("vary").unwrap().contains("origin"));
    let answer = fixture.send(Method::PUT, &put, &origin, Body::from("2")).await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://ci.example"));

    let elsewhere = "/api/v1/jobs/job-0001/artifacts/a";
    assert_eq!(preflight(elsewhere, "https://ci.example").await.status, 405);
    let answer = fixture.ask(Method::GET, elsewhere, &origin).await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    // Nobody's page may choose the host.
    let rebound = [("host", "evil.example"), origin[0]];
    assert_eq!(fixture.ask(Method::GET, &get, &rebound).await.status, 421);
}

#[test]
fn no_metric_has_a_part_of_a_link() {
    let fixture = Fixture::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&fixture.recorder, || {
        runtime.block_on(async {
            let job = fixture.job("job-0001").await;
            fixture.keep(&job, "a.txt", b"1").await;
            let link = fixture.link(&job, "a.txt", LinkOptions::get()).await;
            assert_eq!(fixture.get(&link).await.status, 200);
            assert_eq!(fixture.get(&link.replace("a.txt", "b.txt")).await.status, 403);
        });
    });
    let text = fixture.recorder.handle().render();
    assert!(text.contains("/api/v1/links/{job}/{*path}"), "{text}");
    assert!(!text.contains("signature") && !text.contains("a.txt"), "{text}");
}
