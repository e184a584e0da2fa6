//! `danube artifacts`: what people do with what jobs made, and with files of their own.

use std::fs;

use rustix::process::Signal;
use sha2::{Digest as _, Sha256};

use crate::harness::{Danube, said, stderr, wait_until};

fn a_job(danube: &Danube) {
    danube.expect(0, &["run", "--artifact", "*.json", "--", "sh", "-c", "echo {} > a.json"]);
}

fn artifacts(danube: &Danube) -> Vec<serde_json::Value> {
    let list = danube.json(&["artifacts", "list", "latest", "--output", "json"]);
    list["artifacts"].as_array().unwrap().clone()
}

#[test]
fn a_file_is_added_tagged_and_deleted() {
    let danube = Danube::new();
    a_job(&danube);
    fs::write(danube.work().join("notes.md"), "# notes").unwrap();
    let put = ["artifacts", "put", "latest", "notes.md", "--tag", "by=hand", "--keep-for", "2h"];
    danube.expect(0, &put);
    let again = danube.run(&put);
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    assert!(stderr(&again).contains("exists already"), "{}", said(&again));
    danube.expect(0, &["artifacts", "put", "latest", "notes.md", "--name", "docs/n.md"]);

    let all = artifacts(&danube);
    let names: Vec<_> = all.iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a.json", "docs/n.md", "notes.md"]);
    let types: Vec<_> = all.iter().map(|a| a["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["data", "document", "document"]);
    assert_eq!(all[2]["tags"]["by"], "hand");
    assert_eq!(all[2]["keep_for_seconds"], 7200);
    assert!(all[2]["expires_at"].is_string() && all[1]["expires_at"].is_null());
    assert!(danube.expect(0, &["artifacts", "list", "latest"]).contains("document"));

    let tagged = ["artifacts", "tag", "latest", "notes.md", "--tag", "x=1", "--remove", "by"];
    assert_eq!(danube.expect(0, &tagged), "x=1\n");
    danube.expect(0, &["artifacts", "tag", "latest", "a.json", "--keep-forever"]);
    let nothing = danube.run(&["artifacts", "tag", "latest", "a.json"]);
    assert_eq!(nothing.status.code(), Some(2), "{}", said(&nothing));

    danube.expect(0, &["artifacts", "delete", "latest", "docs/n.md"]);
    let gone = danube.run(&["artifacts", "delete", "latest", "docs/n.md"]);
    assert_eq!(gone.status.code(), Some(1), "{}", said(&gone));
    let all = danube.run(&["artifacts", "delete", "latest", "--all"]);
    assert!(stderr(&all).contains("1 deleted"), "{}", said(&all));
    assert!(stderr(&all).contains("1 kept for ever"), "{}", said(&all));
    assert_eq!(artifacts(&danube).len(), 1);
    danube.expect(0, &["artifacts", "tag", "latest", "a.json", "--let-go"]);
    danube.expect(0, &["artifacts", "delete", "latest", "--all"]);
    assert!(artifacts(&danube).is_empty());
    for wrong in
        [&["artifacts", "delete", "latest"][..], &["artifacts", "put", "latest", "/dev/null"]]
    {
        assert_eq!(danube.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn an_interrupted_upload_sends_only_what_was_not_acknowledged() {
    const PART: usize = 8 * 1024 * 1024;
    let danube = Danube::new();
    a_job(&danube);
    let bytes: Vec<u8> = (0..12 * PART as u64 + 5).map(|at| ((at * at) >> 9) as u8).collect();
    fs::write(danube.work().join("big.bin"), &bytes).unwrap();
    let running = danube.start(&["artifacts", "put", "latest", "big.bin"]);
    let uploads = danube.data().join("artifacts/.uploads");
    let acknowledged = || {
        let sessions = fs::read_dir(&uploads).into_iter().flatten().flatten();
        let parts = sessions.filter_map(|s| fs::read_to_string(s.path().join("parts")).ok());
        parts.map(|parts| parts.lines().filter(|line| !line.is_empty()).count()).sum::<usize>()
    };
    wait_until("some parts are acknowledged", || acknowledged() >= 3);
    running.signal(Signal::KILL);
    let killed = running.wait();
    assert!(!killed.status.success());
    let known = acknowledged();
    assert!(known < 13, "it was killed too late");
    assert_eq!(artifacts(&danube).len(), 1, "nothing partial is listed");

    let resumed = danube.run(&["artifacts", "put", "latest", "big.bin", "--resume"]);
    assert!(resumed.status.success(), "{}", said(&resumed));
    let were_there = format!("resumed: {:.2} MB were there", (known * PART) as f64 / 1e6);
    assert!(stderr(&resumed).contains(&were_there), "{were_there}: {}", said(&resumed));
    let digest = hex(&Sha256::digest(&bytes));
    assert!(stderr(&resumed).contains(&digest), "{}", said(&resumed));
    assert_eq!(artifacts(&danube)[1]["sha256"], digest.as_str());
    assert_eq!(fs::read_dir(&uploads).unwrap().count(), 0);
    danube.expect(0, &["artifacts", "get", "latest", "big.bin", "--to", "back.bin"]);
    assert!(fs::read(danube.work().join("back.bin")).unwrap() == bytes);
    // The same bytes again cost nothing, and there is nothing to resume.
    let again = danube.run(&["artifacts", "put", "latest", "big.bin", "--name", "b", "--resume"]);
    assert!(stderr(&again).contains("nothing to resume"), "{}", said(&again));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_artifact_is_named_by_its_own_id_too() {
    let danube = Danube::new();
    a_job(&danube);
    fs::write(danube.work().join("notes.md"), "# notes").unwrap();
    let put = ["artifacts", "put", "latest", "notes.md", "--type", "log", "--tag", "by=hand"];
    danube.expect(0, &put);
    let [_, notes] = &artifacts(&danube)[..] else { panic!("{:?}", artifacts(&danube)) };
    assert_eq!((&notes["type"], &notes["state"]), (&"log".into(), &"active".into()));
    let id = notes["id"].as_str().unwrap();
    assert_eq!(danube.json(&["artifacts", "info", id, "--output", "json"]), *notes);
    let by_name = ["artifacts", "info", "latest", "notes.md", "--output", "json"];
    assert_eq!(danube.json(&by_name), *notes);
    let shown = danube.expect(0, &["artifacts", "info", id]);
    for line in ["state     active, readable", "type      log, text/markdown", "tag       by=hand"]
    {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    danube.expect(0, &["artifacts", "get", id, "--to", "back.md"]);
    assert_eq!(fs::read(danube.work().join("back.md")).unwrap(), b"# notes");

    // The list beside the artifacts names what was put by hand.
    let job = notes["job"].as_str().unwrap();
    let list = danube.data().join(format!("artifacts/{job}/.danube/metadata.json"));
    let list: serde_json::Value = serde_json::from_slice(&fs::read(&list).unwrap()).unwrap();
    assert_eq!(
        (&list["artifacts"][1]["id"], &list["artifacts"][1]["type"]),
        (&id.into(), &"log".into())
    );

    danube.expect(0, &["artifacts", "put", "latest", "notes.md", "--replace"]);
    danube.expect(1, &["artifacts", "info", id]);
    for wrong in
        [&["artifacts", "get", "latest"][..], &["artifacts", "put", "latest", "a", "--type", "b"]]
    {
        assert_eq!(danube.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    // Files in a directory have one tier, and the command says so.
    let refused = danube.run(&["artifacts", "archive", "latest", "notes.md"]);
    assert_eq!(refused.status.code(), Some(5), "{}", said(&refused));
    assert!(
        stderr(&refused).contains("have no tiers: nothing can be archived"),
        "{}",
        said(&refused)
    );
    let restored = danube.run(&["artifacts", "restore", "latest", "notes.md"]);
    assert_eq!(restored.status.code(), Some(0), "{}", said(&restored));
    assert!(stderr(&restored).contains("is readable: it is not archived"), "{}", said(&restored));
}

#[test]
fn what_somebody_changed_in_the_store_is_not_handed_out() {
    let danube = Danube::new();
    a_job(&danube);
    let site = danube.work().join("site");
    fs::create_dir(&site).unwrap();
    fs::write(site.join("a"), "a").unwrap();
    danube.expect(0, &["artifacts", "put", "latest", "site"]);
    let other = danube.work().join("other.tar.gz");
    fs::write(site.join("a"), "b").unwrap();
    danube.expect(0, &["artifacts", "pack", "site", "other.tar.gz"]);
    let job = artifacts(&danube)[0]["job"].as_str().unwrap().to_owned();
    let stored = danube.data().join("artifacts").join(job);
    for (name, bytes) in [("a.json", b"[]\n".to_vec()), ("site.tar.gz", fs::read(other).unwrap())] {
        fs::remove_file(stored.join(name)).unwrap();
        fs::write(stored.join(name), bytes).unwrap();
    }
    let get = ["artifacts", "get", "latest"];
    for (name, how) in [("a.json", ["--to", "back"]), ("site.tar.gz", ["--unpack", "back"])] {
        let out = danube.run(&[&get[..], &[name], &how].concat());
        assert_eq!(out.status.code(), Some(5), "{}", said(&out));
        assert!(stderr(&out).contains("is not what was stored"), "{}", said(&out));
        assert!(fs::symlink_metadata(danube.work().join("back")).is_err(), "{name}");
    }
    danube.expect(5, &[&get[..], &["a.json", "--to", "-"]].concat());
}

#[test]
fn a_file_longer_than_the_configured_limit_is_not_put() {
    let danube = Danube::new();
    a_job(&danube);
    let config = danube.data().join("danube.toml");
    fs::write(&config, "[artifacts]\nmax_file_bytes = 20\n").unwrap();
    fs::write(danube.work().join("long"), "123456789012345678901").unwrap();
    for how in [&["long"][..], &["long", "--resume"]] {
        let put = [&["artifacts", "put", "latest"][..], how].concat();
        let out = danube.command(&put).env("DANUBE_CONFIG", &config).output().unwrap();
        assert_eq!(out.status.code(), Some(5), "{}", said(&out));
        assert!(stderr(&out).contains("20 bytes"), "{}", said(&out));
    }
}

#[test]
fn a_directory_is_put_as_an_archive_and_got_back_unpacked() {
    let danube = Danube::new();
    a_job(&danube);
    let site = danube.work().join("site");
    fs::create_dir_all(site.join("css")).unwrap();
    fs::write(site.join("index.html"), "<p>").unwrap();
    fs::write(site.join("css/a.css"), "p {}").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", site.join("out")).unwrap();
    let put = danube.run(&["artifacts", "put", "latest", "site"]);
    assert!(put.status.success(), "{}", said(&put));
    assert!(stderr(&put).contains("left out: out: "), "{}", said(&put));
    danube.expect(0, &["artifacts", "put", "latest", "site", "--name", "again.tgz"]);
    let all = artifacts(&danube);
    let names: Vec<_> = all.iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a.json", "again.tgz", "site.tar.gz"]);
    assert_eq!(all[1]["sha256"], all[2]["sha256"]);

    danube.expect(0, &["artifacts", "get", "latest", "site.tar.gz", "--unpack", "back"]);
    let back = danube.work().join("back");
    assert_eq!(fs::read(back.join("index.html")).unwrap(), b"<p>");
    assert_eq!(fs::read(back.join("css/a.css")).unwrap(), b"p {}");
    assert!(fs::symlink_metadata(back.join("out")).is_err());
    danube.expect(1, &["artifacts", "get", "latest", "site.tar.gz", "--unpack", "back"]);
    // What is no archive is refused, and nothing of it stays.
    let refused = danube.run(&["artifacts", "get", "latest", "a.json", "--unpack", "none"]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(stderr(&refused).contains("refused: a.json: "), "{}", said(&refused));
    assert!(fs::symlink_metadata(danube.work().join("none")).is_err());
    danube.expect(2, &["artifacts", "put", "latest", "site", "--resume"]);
}
