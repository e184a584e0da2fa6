//! Logs and artifacts as files: ranges, tags, names.

use axum::http::Method;
use danube_artifacts::{BlobKey, BlobStore};

use super::*;

const LOG: &[u8] = b"[2024-01-06T12:00:00.123Z] [run] [stdout] caf\xc3\xa9 \xff\r\n";

#[tokio::test]
async fn a_log_is_a_file_whose_bytes_are_sent_as_they_are() {
    let fixture = Fixture::new();
    fixture.finished("job-0001", LOG).await;
    let all = fixture.get("/api/v1/jobs/job-0001/logs").await;
    assert_eq!((all.status.as_u16(), &all.body[..]), (200, LOG));
    let len = LOG.len().to_string();
    for (name, value) in [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", len.as_str()),
        ("accept-ranges", "bytes"),
        ("x-content-type-options", "nosniff"),
        ("content-disposition", "inline; filename=\"job-0001.log\""),
        ("cache-control", "private, no-cache"),
    ] {
        assert_eq!(all.header(name), Some(value), "{name}");
    }
    let head =
        fixture.ask(Method::HEAD, "/api/v1/jobs/job-0001/logs", &[("range", "bytes=0-1")]).await;
    assert_eq!(head.status, 200);
    assert_eq!((head.header("content-length"), head.body.len()), (Some(len.as_str()), 0));
    assert_eq!(head.header("etag"), all.header("etag"));
}

#[tokio::test]
async fn one_range_of_a_log_is_sent_alone() {
    let fixture = Fixture::new();
    fixture.finished("job-0001", LOG).await;
    let len = LOG.len();
    for (range, bytes, content_range) in [
        ("bytes=0-", LOG, format!("bytes 0-{}/{len}", len - 1)),
        ("bytes=5-9", &LOG[5..10], format!("bytes 5-9/{len}")),
        ("bytes=-3", &LOG[len - 3..], format!("bytes {}-{}/{len}", len - 3, len - 1)),
        ("bytes=40-9999", &LOG[40..], format!("bytes 40-{}/{len}", len - 1)),
    ] {
        let part = fixture.ask(Method::GET, "/api/v1/jobs/latest/logs", &[("range", range)]).await;
        assert_eq!((part.status.as_u16(), &part.body[..]), (206, bytes), "{range}");
        assert_eq!(part.header("content-range"), Some(content_range.as_str()), "{range}");
        assert_eq!(part.header("content-length"), Some(bytes.len().to_string().as_str()));
    }
    for range in ["bytes=0-1,3-4", "bytes=4-3", "pages=1-2", "nonsense"] {
        let all = fixture.ask(Method::GET, "/api/v1/jobs/latest/logs", &[("range", range)]).await;
        assert_eq!((all.status.as_u16(), &all.body[..]), (200, LOG), "{range}");
        assert_eq!(all.header("content-range"), None);
    }
    let past = format!("bytes={len}-");
    let none = fixture.ask(Method::GET, "/api/v1/jobs/latest/logs", &[("range", &past)]).await;
    assert_eq!(none.problem(), (416, "range_not_satisfiable".into()));
    assert_eq!(none.header("content-range"), Some(format!("bytes */{len}").as_str()));
}

#[tokio::test]
async fn a_log_has_a_tag_once_it_is_sealed() {
    let fixture = Fixture::new();
    let id = fixture.job("job-0001").await;
    fixture.log(&id, b"one\n").await;
    let path = "/api/v1/jobs/job-0001/logs";
    let open = fixture.get(path).await;
    assert_eq!(open.header("etag"), None);
    let held = [("range", "bytes=0-0"), ("if-range", "\"anything\"")];
    assert_eq!(fixture.ask(Method::GET, path, &held).await.status, 200);
    fixture.append(&id, b"two\n").await;
    let more = fixture.ask(Method::GET, path, &[("range", "bytes=4-")]).await;
    assert_eq!(&more.body[..], b"two\n", "whoever polls a growing log asks for what is new");

    fixture.seal(&id).await;
    let sealed = fixture.get(path).await;
    let etag = sealed.header("etag").unwrap();
    let part = fixture.ask(Method::GET, path, &[("range", "bytes=0-0"), ("if-range", etag)]).await;
    assert_eq!((part.status.as_u16(), &part.body[..]), (206, &b"o"[..]));
    let known = fixture.ask(Method::GET, path, &[("if-none-match", etag)]).await;
    assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));
    assert_eq!(known.header("etag"), Some(etag));
    assert_eq!(known.header("content-length"), Some("8"));
}

#[tokio::test]
async fn an_empty_log_is_empty() {
    let fixture = Fixture::new();
    fixture.finished("job-0001", b"").await;
    let path = "/api/v1/jobs/job-0001/logs";
    let all = fixture.get(path).await;
    assert_eq!((all.status.as_u16(), all.body.len()), (200, 0));
    let none = fixture.ask(Method::GET, path, &[("range", "bytes=0-")]).await;
    assert_eq!(none.header("content-range"), Some("bytes */0"));
}

#[tokio::test]
async fn a_long_log_comes_in_pieces_and_whole() {
    let fixture = Fixture::new();
    let long: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let id = fixture.job("job-0001").await;
    fixture.log(&id, b"").await;
    for piece in long.chunks(700_000) {
        fixture.append(&id, piece).await;
    }
    assert!(fixture.get("/api/v1/jobs/job-0001/logs").await.body == long);
    let range = [("range", "bytes=65535-2000000")];
    let part = fixture.ask(Method::GET, "/api/v1/jobs/job-0001/logs", &range).await;
    assert!(part.body == long[65535..=2_000_000]);
}

#[tokio::test]
async fn an_artifact_is_a_download_named_by_its_digest() {
    let fixture = Fixture::new();
    let id = fixture.finished("job-0001", b"").await;
    let record = fixture.keep(&id, "out/page.html", b"<script>0123456789</script>").await;
    let path = "/api/v1/jobs/job-0001/artifacts/out/page.html";
    let all = fixture.get(path).await;
    assert_eq!(&all.body[..], b"<script>0123456789</script>");
    let etag = format!("\"sha256-{}\"", record.digest);
    for (name, value) in [
        ("content-type", "text/html"),
        ("content-disposition", "attachment; filename=\"page.html\""),
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'; sandbox"),
        ("etag", &etag),
        ("content-length", "27"),
    ] {
        assert_eq!(all.header(name), Some(value), "{name}");
    }
    let range = [("range", "bytes=8-17"), ("if-range", etag.as_str())];
    let part = fixture.ask(Method::GET, path, &range).await;
    assert_eq!((part.status.as_u16(), &part.body[..]), (206, &b"0123456789"[..]));
    assert_eq!(part.header("content-range"), Some("bytes 8-17/27"));
    let known = fixture.ask(Method::GET, path, &[("if-none-match", &etag)]).await;
    assert_eq!(known.status, 304);
    let past = fixture.ask(Method::GET, path, &[("range", "bytes=27-")]).await;
    assert_eq!(past.problem().0, 416);

    let listed = fixture.get("/api/v1/jobs/job-0001/artifacts").await.json();
    assert_eq!(listed["artifacts"][0]["name"], "out/page.html");
    assert_eq!(listed["artifacts"][0]["sha256"], record.digest.to_string());
    assert_eq!(listed["artifacts"][0]["size_bytes"], 27);
}

#[tokio::test]
async fn a_signature_is_asked_for_by_part_or_by_suffix_and_a_file_of_that_name_wins() {
    let fixture = Fixture::new();
    let id = fixture.finished("job-0001", b"").await;
    fixture.keep(&id, "x", b"the file").await;
    fixture.keep(&id, "y", b"another").await;
    fixture.keep(&id, "y.sig", b"a file called so").await;
    let base = "/api/v1/jobs/job-0001/artifacts";
    let signature = fixture.get(&format!("{base}/x?part=signature")).await;
    assert_eq!(signature.body.len(), 64);
    assert_eq!(signature.header("content-type"), Some("application/octet-stream"));
    assert_eq!(signature.header("content-disposition"), Some("attachment; filename=\"x.sig\""));
    assert_eq!(fixture.get(&format!("{base}/x.sig")).await.body, signature.body);
    assert_eq!(&fixture.get(&format!("{base}/y.sig")).await.body[..], b"a file called so");
    let of_y = fixture.get(&format!("{base}/y?part=signature")).await.body;
    let of_y_sig = fixture.get(&format!("{base}/y.sig?part=signature")).await.body;
    assert_eq!((of_y.len(), of_y_sig.len()), (64, 64));
    assert_ne!(of_y, of_y_sig);
    assert_eq!(fixture.get(&format!("{base}/y.sig.sig")).await.body, of_y_sig);
}

#[tokio::test]
async fn provenance_is_sent_as_it_is_stored() {
    let fixture = Fixture::new();
    let id = fixture.finished("job-0001", b"").await;
    let record = fixture.keep(&id, "x", b"the file").await;
    fixture.prove(&id, &[record]).await;
    let statement = fixture.get("/api/v1/jobs/job-0001/provenance").await;
    assert_eq!(statement.header("content-type"), Some("application/json"));
    assert_eq!(statement.json()["_type"], "https://in-toto.io/Statement/v1");
    let envelope = fixture.get("/api/v1/jobs/job-0001/provenance.dsse").await;
    assert_eq!(envelope.json()["payloadType"], "application/vnd.in-toto+json");
    assert_eq!(
        envelope.header("content-disposition"),
        Some("attachment; filename=\"provenance.dsse.json\"")
    );
}

#[tokio::test]
async fn a_file_that_is_not_what_was_recorded_is_not_sent() {
    let fixture = Fixture::new();
    let id = fixture.finished("job-0001", b"").await;
    let record = fixture.keep(&id, "x", b"the file").await;
    let key = BlobKey::artifact(&id, &record.name);
    let replace =
        danube_artifacts::PutOptions::default().with_mode(danube_artifacts::PutMode::Replace);
    fixture.artifacts.blobs().put(&key, bytes_stream("longer than that"), replace).await.unwrap();
    let answer = fixture.get("/api/v1/jobs/job-0001/artifacts/x").await;
    assert_eq!(answer.problem(), (500, "internal".into()));
}

#[tokio::test]
async fn an_artifact_is_found_by_its_own_id_and_tells_what_is_known() {
    let fixture = Fixture::new();
    let id = fixture.job("job-0001").await;
    let kept = fixture.keep(&id, "out/data.json", b"{}").await;
    let file = fixture.get(&format!("/v1/artifacts/{}/download", kept.id)).await;
    assert_eq!((file.status.as_u16(), &file.body[..]), (200, &b"{}"[..]));
    assert_eq!(file.header("content-type"), Some("application/json"));
    let range = [("range", "bytes=1-")];
    let path = format!("/v1/artifacts/{}/download", kept.id);
    let part = fixture.ask(Method::GET, &path, &range).await;
    assert_eq!((part.status.as_u16(), &part.body[..]), (206, &b"}"[..]));

    let by_id = fixture.get(&format!("/v1/artifacts/{}/metadata", kept.id)).await.json();
    let by_name = "/api/v1/jobs/job-0001/artifacts/out/data.json?part=metadata";
    assert_eq!(fixture.get(by_name).await.json(), by_id);
    assert_eq!(fixture.get("/v1/artifacts/job-0001").await.json()["artifacts"][0], by_id);
    for (field, value) in [
        ("id", kept.id.to_string()),
        ("job", "job-0001".to_owned()),
        ("name", "out/data.json".to_owned()),
        ("type", "data".to_owned()),
        ("state", "active".to_owned()),
        ("content_type", "application/json".to_owned()),
    ] {
        assert_eq!(by_id[field], value, "{field}");
    }

    let half = fixture.upload(&id, "half", b"1").await;
    let half = fixture.get(&format!("/v1/artifacts/{}/metadata", half.id)).await;
    assert_eq!(half.problem(), (503, "artifact_not_ready".into()));
    fixture.artifacts.delete(&id, &kept.name).await.unwrap();
    for (path, status, code) in [
        (path.as_str(), 404, "artifact_not_found"),
        ("/v1/artifacts/job-0001/download", 400, "invalid_request"),
        ("/v1/artifacts/job-0001/metadata", 400, "invalid_request"),
    ] {
        assert_eq!(fixture.get(path).await.problem(), (status, code.into()), "{path}");
    }
}

#[tokio::test]
async fn an_archived_artifact_answers_what_is_to_be_done() {
    let fixture = Fixture::new();
    let id = fixture.job("job-0001").await;
    let kept = fixture.keep(&id, "out/data.json", b"{}").await;
    fixture.artifacts.archive(&id, &kept.name).await.unwrap();
    let by_name = "/api/v1/jobs/job-0001/artifacts/out/data.json".to_owned();
    let by_id = format!("/v1/artifacts/{}/download", kept.id);
    for path in [&by_name, &by_id] {
        let refused = fixture.get(path).await;
        assert_eq!(refused.problem(), (409, "artifact_archived".into()));
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("danube artifacts restore job-0001 out/data.json"), "{detail}");
        let head = fixture.ask(Method::HEAD, path, &[]).await;
        assert_eq!(head.status, 409);
    }
    let listed = fixture.get("/v1/artifacts/job-0001").await.json();
    assert_eq!(listed["artifacts"][0]["state"], "archived");
    assert!(listed["artifacts"][0]["archived_at"].is_string());
    let signature = fixture.get(&format!("{by_name}?part=signature")).await;
    assert_eq!((signature.status.as_u16(), signature.body.len()), (200, 64));

    let day = Duration::from_secs(86_400);
    fixture.artifacts.restore(&id, &kept.name, day).await.unwrap();
    for path in [&by_name, &by_id] {
        assert_eq!(fixture.get(path).await.status, 200);
    }
}
