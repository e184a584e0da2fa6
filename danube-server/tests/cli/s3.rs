//! `danube` with its artifacts in a bucket, on a server of S3 that is not ours.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::harness::{Danube, contains, said, stderr, wait_until};
use crate::moto::{AUTHORIZATION, Moto};

const SECRET: &str = "wJalrXUtnFEMI-canary-of-a-secret-key";

/// One for all tests: it ends with the process.
fn moto() -> &'static Moto {
    static SERVER: OnceLock<Moto> = OnceLock::new();
    SERVER.get_or_init(Moto::start)
}

/// A data directory whose configuration names a bucket.
struct InBucket {
    danube: Danube,
    bucket: String,
}

impl InBucket {
    /// With a bucket of its own, and these lines more in `[artifacts.s3]`.
    fn new(settings: &str) -> Self {
        static BUCKETS: AtomicU32 = AtomicU32::new(0);
        let bucket = format!("team-{}", BUCKETS.fetch_add(1, Ordering::Relaxed));
        moto().expect("PUT", &format!("/{bucket}"), "");
        let this = Self { danube: Danube::new(), bucket };
        this.configure(&moto().url(), settings);
        this
    }

    fn configure(&self, endpoint: &str, settings: &str) {
        let bucket = &self.bucket;
        let text = format!(
            "[artifacts.s3]\nbucket = {bucket:?}\nendpoint = {endpoint:?}\nregion = \"us-east-1\"\n{settings}\n"
        );
        fs::write(self.danube.data().join("danube.toml"), text).unwrap();
    }

    /// `danube ARGS` with credentials, and nothing else of the tester's that the SDK would look at.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.danube.command(args);
        for name in ["AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL"] {
            command.env_remove(name);
        }
        command
            .env("DANUBE_CONFIG", self.danube.data().join("danube.toml"))
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
            .env("AWS_SECRET_ACCESS_KEY", SECRET);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        let out = self.command(args).output().unwrap();
        for stream in [&out.stdout, &out.stderr] {
            assert!(!contains(stream, SECRET.as_bytes()), "{args:?} prints the secret key");
        }
        out
    }

    #[track_caller]
    fn expect(&self, code: i32, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.status.code(), Some(code), "danube {args:?}: {}", said(&out));
        String::from_utf8(out.stdout).unwrap()
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.expect(0, args)).unwrap()
    }

    /// The one sentence that a command fails with.
    #[track_caller]
    fn refused(&self, code: i32, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.status.code(), Some(code), "danube {args:?}: {}", said(&out));
        let told = stderr(&out);
        assert_eq!(told.lines().count(), 1, "{told}");
        told
    }

    /// The keys in the bucket.
    fn keys(&self) -> Vec<String> {
        let list = moto().expect("GET", &format!("/{}?list-type=2", self.bucket), "");
        let keys = list.split("<Key>").skip(1);
        keys.map(|rest| rest.split_once("</Key>").unwrap().0.to_owned()).collect()
    }
}

const SETUP: [&str; 3] = ["artifacts", "s3", "setup"];

fn actions(plan: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let rules = plan["rules"].as_array().unwrap();
    rules.iter().map(|rule| (text(&rule["id"]), text(&rule["action"]))).collect()
}

#[test]
fn a_bucket_is_set_up_once_and_the_rules_of_others_stay() {
    let here = InBucket::new(
        "expire_days = 365\n[artifacts]\ncors_origins = [\"https://ci.example.com\"]",
    );
    let lifecycle = format!("/{}?lifecycle", here.bucket);
    let theirs = "<LifecycleConfiguration><Rule><ID>backup</ID><Filter><Prefix>backup/</Prefix></Filter>\
        <Status>Enabled</Status><Expiration><Days>3</Days></Expiration></Rule></LifecycleConfiguration>";
    moto().expect("PUT", &lifecycle, theirs);
    let setup = |how| here.json(&[&SETUP[..], &[how, "--output", "json"]].concat());

    let before = moto().expect("GET", &lifecycle, "");
    let plan = setup("--dry-run");
    assert_eq!(plan["done"], false);
    let expected = [
        ("backup", "leave"),
        ("TransitionToIA", "add"),
        ("TransitionToGlacier", "add"),
        ("ExpireOldArtifacts", "add"),
        ("ExpireDeletedArtifacts", "add"),
        ("AbortIncompleteMultipartUpload", "add"),
        ("DanubeLinks", "add"),
    ]
    .map(|(id, action)| (id.to_owned(), action.to_owned()));
    assert_eq!(actions(&plan), expected);
    assert!(plan["warnings"][0].as_str().unwrap().contains("versioning"), "{plan}");
    assert_eq!(moto().expect("GET", &lifecycle, ""), before, "a dry run changes nothing");

    assert_eq!(setup("--apply")["done"], true);
    let after = moto().expect("GET", &lifecycle, "");
    for said in [
        "<ID>backup</ID>",
        "<Prefix>backup/</Prefix>",
        "<Days>30</Days><StorageClass>STANDARD_IA</StorageClass>",
        "<Days>90</Days><StorageClass>GLACIER</StorageClass>",
        "<Expiration><Days>365</Days>",
        "<NoncurrentDays>30</NoncurrentDays>",
        "<DaysAfterInitiation>7</DaysAfterInitiation>",
        "<Prefix>artifacts/</Prefix>",
    ] {
        let plain: String = after.split_whitespace().collect();
        assert!(plain.contains(said), "{said} in {after}");
    }
    let cors = moto().expect("GET", &format!("/{}?cors", here.bucket), "");
    for said in
        ["https://ci.example.com", "PUT", "HEAD", "if-none-match", "x-amz-checksum-*", "ETag"]
    {
        assert!(cors.contains(said), "{said} in {cors}");
    }

    let again = setup("--apply");
    assert!(
        actions(&again).iter().all(|(_, action)| action == "keep" || action == "leave"),
        "{again}"
    );
    assert_eq!(moto().expect("GET", &lifecycle, ""), after);

    // A page may use links after a preflight, as a browser asks.
    here.configure(&moto().url(), "");
    let fewer = setup("--apply");
    let removed: Vec<_> = actions(&fewer).into_iter().filter(|(_, a)| a == "remove").collect();
    assert_eq!(removed.len(), 2, "{fewer}");
    assert_eq!(moto().request("GET", &format!("/{}?cors", here.bucket), "").0, 404);
    assert!(moto().expect("GET", &lifecycle, "").contains("<ID>backup</ID>"));
    here.expect(2, &SETUP);
}

#[test]
fn what_is_kept_for_ever_and_a_bucket_that_deletes_exclude_each_other() {
    let here = InBucket::new("");
    here.expect(0, &["run", "--artifact", "a.txt", "--", "sh", "-c", "echo a > a.txt"]);
    here.expect(0, &["artifacts", "tag", "latest", "a.txt", "--keep-forever"]);
    here.configure(&moto().url(), "expire_days = 365");
    let apply = [&SETUP[..], &["--apply"]].concat();
    let out = here.run(&apply);
    assert_eq!(out.status.code(), Some(2), "{}", said(&out));
    assert!(stderr(&out).contains("a.txt"), "{}", said(&out));
    assert_eq!(moto().request("GET", &format!("/{}?lifecycle", here.bucket), "").0, 404);

    here.expect(0, &["artifacts", "tag", "latest", "a.txt", "--let-go"]);
    here.expect(0, &apply);
    fs::write(here.danube.work().join("b.txt"), "b").unwrap();
    let put = ["artifacts", "put", "latest", "b.txt"];
    here.expect(2, &["artifacts", "adopt", "latest", "b.txt", "--keep-forever"]);
    for longer in [&["--keep-forever"][..], &["--keep-for", "366d"]] {
        let told = here.refused(2, &[&put[..], longer].concat());
        assert!(told.contains("expire_days"), "{told}");
    }
    here.expect(0, &[&put[..], &["--keep-for", "365d"]].concat());
    let job = "name: long\nsteps: [{name: a, run: 'true'}]\nretention_days: 366\n";
    fs::write(here.danube.work().join("job.yaml"), job).unwrap();
    assert!(here.refused(2, &["run", "job.yaml"]).contains("expire_days"));
}

#[test]
fn the_policy_names_every_action_and_whom_it_is_for() {
    let here = InBucket::new("prefix = \"ci/\"");
    let policy = here.json(&["artifacts", "s3", "policy", "--principal", "123456789012"]);
    let statements = policy["Statement"].as_array().unwrap();
    assert_eq!(statements[0]["Sid"], "AllowAgentAccess");
    let mut actions: Vec<_> = statements
        .iter()
        .flat_map(|statement| statement["Action"].as_array().unwrap())
        .map(|action| action.as_str().unwrap())
        .collect();
    actions.sort_unstable();
    assert_eq!(
        actions,
        [
            "s3:AbortMultipartUpload",
            "s3:DeleteObject",
            "s3:GetObject",
            "s3:ListBucket",
            "s3:ListBucketMultipartUploads",
            "s3:ListMultipartUploadParts",
            "s3:PutObject",
            "s3:RestoreObject",
        ]
    );
    let bucket = format!("arn:aws:s3:::{}", here.bucket);
    assert_eq!(statements[0]["Resource"], format!("{bucket}/ci/*"));
    let role = json!({ "AWS": "arn:aws:iam::123456789012:role/claude-agent-role" });
    assert_eq!(statements[0]["Principal"], role);
    let setup = here.json(&["artifacts", "s3", "policy", "--setup"]);
    assert!(setup.to_string().contains("s3:PutLifecycleConfiguration"), "{setup}");
    assert!(setup["Statement"][0].get("Principal").is_none(), "{setup}");
    // A server that takes it stores it.
    moto().expect("PUT", &format!("/{}?policy", here.bucket), &policy.to_string());
    here.refused(2, &["artifacts", "s3", "policy", "--principal", "*"]);
}

#[test]
fn the_life_of_an_artifact_in_a_bucket() {
    let here = InBucket::new("");
    let script =
        "mkdir out; head -c 9000000 /dev/zero > out/big; echo hello > out/a.txt; echo done";
    here.expect(0, &["run", "--artifact", "out/*", "--", "sh", "-c", script]);
    let job =
        here.json(&["jobs", "--output", "json"])["jobs"][0]["id"].as_str().unwrap().to_owned();
    let keys = here.keys();
    assert!(keys.contains(&format!("artifacts/{job}/logs/agent.log")), "{keys:?}");
    assert!(keys.iter().all(|key| key.starts_with(&format!("artifacts/{job}/"))), "{keys:?}");
    assert!(keys.iter().any(|key| key.ends_with("out/a.txt")), "{keys:?}");
    // Nothing of it lies in the data directory, and the log in the bucket is the log.
    assert!(here.danube.files_with(b"hello\n").iter().all(|path| path.ends_with("work/out/a.txt")));
    let log = moto().expect("GET", &format!("/{}/artifacts/{job}/logs/agent.log", here.bucket), "");
    assert_eq!(log, here.expect(0, &["logs", "latest", "--raw"]));

    let list = here.json(&["artifacts", "list", "latest", "--output", "json"]);
    let names: Vec<_> =
        list["artifacts"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["out/a.txt", "out/big"]);
    here.expect(0, &["artifacts", "get", "latest", "out/big", "--to", "big.bin"]);
    let bytes = fs::read(here.danube.work().join("big.bin")).unwrap();
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(list["artifacts"][1]["sha256"], digest, "{list}");
    here.expect(0, &["artifacts", "get", "latest", "out/a.txt", "--to", "a.txt"]);
    for (format, file) in [("statement", "provenance.json"), ("envelope", "provenance.dsse.json")] {
        let text = here.expect(0, &["artifacts", "provenance", "latest", "--format", format]);
        fs::write(here.danube.work().join(file), text).unwrap();
    }
    let signature = here.keys().into_iter().find(|key| key.ends_with("out/a.txt.sig")).unwrap();
    let fetched = Command::new("curl")
        .args(["--silent", "--fail", "--header", AUTHORIZATION, "--output", "a.txt.sig"])
        .arg(format!("{}/{}/{signature}", moto().url(), here.bucket))
        .current_dir(here.danube.work())
        .status();
    assert!(fetched.unwrap().success(), "{signature}");
    here.expect(
        0,
        &[
            "verify-artifact",
            "a.txt",
            "--job",
            &job,
            "--name",
            "out/a.txt",
            "--provenance",
            "provenance.dsse.json",
        ],
    );

    // Links are the bucket's own: whoever has one needs no credential, and nothing of Danube.
    let curl = |args: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail"]).args(args);
        command.current_dir(here.danube.work()).output().unwrap()
    };
    let url = here.expect(0, &["artifacts", "url", "latest", "out/a.txt"]);
    assert!(url.starts_with(&moto().url()), "{url}");
    let got = curl(&[url.lines().next().unwrap()]);
    assert_eq!(got.stdout, b"hello\n", "{}", said(&got));
    fs::write(here.danube.work().join("page.html"), "<p>").unwrap();
    let link = here.expect(0, &["artifacts", "url", "latest", "page.html", "--put"]);
    let mut args = vec!["--upload-file", "page.html"];
    args.extend(link.lines().skip(1).flat_map(|header| ["--header", header]));
    args.push(link.lines().next().unwrap());
    let put = curl(&args);
    assert!(put.status.success(), "{}", said(&put));
    here.expect(0, &["artifacts", "adopt", "latest", "page.html"]);
    here.expect(0, &["artifacts", "archive", "latest", "page.html"]);
    here.expect(1, &["artifacts", "get", "latest", "page.html", "--to", "-"]);
    here.expect(0, &["artifacts", "delete", "latest", "page.html"]);

    fs::write(here.danube.work().join("parts"), vec![7; 20_000_000]).unwrap();
    here.expect(0, &["artifacts", "put", "latest", "parts", "--tag", "by=hand"]);
    assert_eq!(
        here.expect(0, &["artifacts", "tag", "latest", "parts", "--tag", "x=1"]),
        "by=hand\nx=1\n"
    );
    here.expect(0, &["artifacts", "tag", "latest", "out/big", "--keep-forever"]);
    here.expect(0, &["artifacts", "delete", "latest", "out/a.txt"]);
    here.expect(1, &["artifacts", "get", "latest", "out/a.txt", "--to", "-"]);
    assert!(!here.keys().iter().any(|key| key.contains("out/a.txt")), "{:?}", here.keys());

    // What nobody wants any longer the reaper deletes in the bucket; what is kept for ever stays.
    here.expect(0, &["artifacts", "tag", "latest", "parts", "--keep-for", "1s"]);
    wait_until("the reaper takes what has had its second", || {
        here.expect(0, &["reaper"]);
        !here.keys().iter().any(|key| key.contains("parts"))
    });
    assert!(here.keys().iter().any(|key| key.ends_with("out/big")), "{:?}", here.keys());
    here.expect(0, &["artifacts", "tag", "latest", "out/big", "--let-go"]);
    here.expect(0, &["artifacts", "delete", "latest", "--all"]);
    assert_eq!(here.keys(), Vec::<String>::new());
}

#[test]
fn what_a_run_says_to_do_next_can_be_done_with_a_bucket() {
    let here = InBucket::new("");
    let out =
        here.run(&["run", "--artifact", "*", "--", "sh", "-c", "echo hello > \"it's a.txt\""]);
    assert!(out.status.success(), "{}", said(&out));
    let told = stderr(&out);
    let commands: Vec<_> = told.lines().filter_map(|line| line.split_once(" danube ")).collect();
    assert_eq!(commands.len(), 4, "{told}");
    fs::remove_file(here.danube.work().join("it's a.txt")).unwrap();
    for (_, typed) in commands {
        let danube = here.command(&[]);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("\"$0\" {typed}")).arg(danube.get_program());
        for (name, value) in danube.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let out = shell.current_dir(here.danube.work()).output().unwrap();
        assert!(out.status.success(), "{typed}: {}", said(&out));
    }
    assert_eq!(fs::read(here.danube.work().join("it's a.txt")).unwrap(), b"hello\n");
}

#[test]
fn nothing_passes_for_deleted_where_the_bucket_is_not_there() {
    let mut here = InBucket::new("");
    here.expect(0, &["run", "--artifact", "a.txt", "--", "sh", "-c", "echo a > a.txt"]);
    let bucket = std::mem::replace(&mut here.bucket, "no-such-bucket".to_owned());
    here.configure(&moto().url(), "");
    let delete = ["artifacts", "delete", "latest", "--all"];
    assert!(here.refused(5, &delete).contains("there is no bucket no-such-bucket"));
    here.bucket = bucket;
    here.configure(&moto().url(), "");
    // It is still known what is to be deleted.
    here.expect(0, &delete);
    assert_eq!(here.keys(), Vec::<String>::new());
}

#[test]
fn a_failed_jobs_log_is_in_the_bucket_too_and_no_bucket_is_no_verdict() {
    let here = InBucket::new("");
    here.expect(1, &["run", "--artifact", "a", "--", "sh", "-c", "echo why; exit 3"]);
    let keys = here.keys();
    assert!(keys.len() == 1 && keys[0].ends_with("/logs/agent.log"), "{keys:?}");

    moto().expect("DELETE", &format!("/{}/{}", here.bucket, keys[0]), "");
    moto().expect("DELETE", &format!("/{}", here.bucket), "");
    let out = here.run(&["run", "--", "true"]);
    assert_eq!(out.status.code(), Some(5), "{}", said(&out));
    assert!(
        stderr(&out).contains(&format!("there is no bucket {}", here.bucket)),
        "{}",
        said(&out)
    );
    // Its own verdict is kept where there is one, and the log here.
    here.expect(1, &["run", "--", "false"]);
    assert!(here.expect(0, &["logs", "latest"]).contains("exit code 1"));
}

#[test]
fn what_opens_the_bucket_is_masked_in_what_a_job_prints() {
    let here = InBucket::new("");
    // `run` holds what is printed against the key.
    let out = here.run(&["run", "--", "sh", "-c", "env; echo $AWS_SECRET_ACCESS_KEY"]);
    assert!(
        out.status.success() && contains(&out.stdout, b"AWS_SECRET_ACCESS_KEY=***"),
        "{}",
        said(&out)
    );
    assert!(here.danube.files_with(SECRET.as_bytes()).is_empty());
    // A job's own keys are its own.
    let own = ["run", "--env", "AWS_SECRET_ACCESS_KEY=of-the-job", "--", "sh", "-c"];
    let out = here.run(&[&own[..], &["test $AWS_SECRET_ACCESS_KEY = of-the-job"]].concat());
    assert!(out.status.success(), "{}", said(&out));
}

#[test]
fn what_is_wrong_with_the_bucket_is_one_sentence_without_a_credential() {
    let setup = [&SETUP[..], &["--dry-run"]].concat();
    let mut here = InBucket::new("");
    let bucket = std::mem::replace(&mut here.bucket, "no-such-bucket".to_owned());
    here.configure(&moto().url(), "");
    let told = here.refused(1, &setup);
    assert!(told.contains("there is no bucket no-such-bucket"), "{told}");

    here.bucket = bucket;
    // Nobody listens there any more.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    here.configure(&format!("http://127.0.0.1:{port}"), "");
    let told = here.refused(5, &setup);
    assert!(told.contains("s3://") && !told.contains('{'), "{told}");

    here.configure(&moto().url(), "");
    let mut command = here.command(&setup);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let out = command.output().unwrap();
    assert_eq!(out.status.code(), Some(5), "{}", said(&out));
    assert!(stderr(&out).contains("credentials"), "{}", said(&out));
    assert_eq!(stderr(&out).lines().count(), 1, "{}", said(&out));

    // Not even to whoever asks for everything.
    let out = here.command(&setup).env("DANUBE_LOG", "trace").output().unwrap();
    assert!(out.status.success(), "{}", said(&out));
    assert!(!contains(&out.stderr, SECRET.as_bytes()) && !contains(&out.stdout, SECRET.as_bytes()));

    fs::write(here.danube.data().join("danube.toml"), "").unwrap();
    let told = here.refused(2, &setup);
    assert!(told.contains("[artifacts.s3]"), "{told}");
}
