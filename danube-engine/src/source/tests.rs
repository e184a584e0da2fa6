//! Real repositories, and some that mean harm.

use std::fs;
use std::process::Command as Program;

use tempfile::TempDir;

use super::*;

const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
const ORIGIN: &str = "https://x-access-token:ghs_1@git.example.com/a/b.git";

/// A directory that is the home of whoever asks, and in it the directory of a tree.
struct Place {
    home: TempDir,
    tree: PathBuf,
}

impl Place {
    fn empty() -> Self {
        let home = tempfile::tempdir().unwrap();
        let tree = fs::canonicalize(home.path()).unwrap().join("tree");
        fs::create_dir(&tree).unwrap();
        Self { home, tree }
    }

    /// A repository with a commit and an origin.
    fn new() -> Self {
        let place = Self::empty();
        place.git(&["init", "--quiet", "--initial-branch=main"]);
        place.git(&["remote", "add", "origin", ORIGIN]);
        place.write("src/a", "a");
        place.write(".gitignore", "target\n");
        place.commit();
        place
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "x"]);
    }

    /// What a user of the tree would type.
    fn git_in(&self, dir: &Path, args: &[&str]) -> String {
        let out = Program::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@example.com"])
            .args(args)
            .current_dir(dir)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", self.home.path())
            .output()
            .unwrap();
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    fn git(&self, args: &[&str]) -> String {
        self.git_in(&self.tree, args)
    }

    fn env(&self, path: &str) -> Vec<(OsString, OsString)> {
        vec![
            ("PATH".into(), path.into()),
            ("HOME".into(), self.home.path().into()),
            // What is not to be believed.
            ("GIT_DIR".into(), "/nonexistent".into()),
            ("GIT_CONFIG_COUNT".into(), "1".into()),
            ("GIT_CONFIG_KEY_0".into(), "remote.origin.url".into()),
            ("GIT_CONFIG_VALUE_0".into(), "https://elsewhere.example.com".into()),
        ]
    }

    async fn in_dir(&self, dir: &Path) -> Result<Option<Checkout>, SourceError> {
        Checkout::of(dir, &self.env(PATH)).await
    }

    async fn found(&self) -> Result<Option<Checkout>, SourceError> {
        self.in_dir(&self.tree).await
    }

    async fn refused(&self) -> String {
        self.found().await.unwrap_err().to_string()
    }
}

#[tokio::test]
async fn where_there_is_no_repository_there_is_no_source() {
    let place = Place::empty();
    assert_eq!(place.found().await.unwrap(), None);
    // Not even git is asked for.
    assert_eq!(Checkout::of(&place.tree, &[]).await.unwrap(), None);
}

#[tokio::test]
async fn a_clean_tree_is_its_commit_and_passwords_are_left_out() {
    let place = Place::new();
    let commit = place.git(&["rev-parse", "HEAD"]);
    let source = Source::new("git+https://git.example.com/a/b.git", commit.clone());
    let on_main = Checkout { source: source.clone().with_branch("main"), root: place.tree.clone() };
    // What is ignored is no change; nor is a file that was only touched.
    place.write("target/x", "x");
    fs::File::options()
        .write(true)
        .open(place.tree.join("src/a"))
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();
    let index = fs::read(place.tree.join(".git/index")).unwrap();
    assert_eq!(place.found().await.unwrap().unwrap(), on_main);
    assert_eq!(place.in_dir(&place.tree.join("src")).await.unwrap().unwrap(), on_main);
    assert_eq!(fs::read(place.tree.join(".git/index")).unwrap(), index, "it wrote the index");

    // A branch of many parts, none at all, another work tree of the same repository.
    place.git(&["switch", "--quiet", "--create", "feature/x"]);
    let found = place.found().await.unwrap().unwrap();
    assert_eq!(found.source.branch.as_deref(), Some("feature/x"));
    place.git(&["tag", "feature/x"]);
    let found = place.found().await.unwrap().unwrap();
    assert_eq!(found.source.branch.as_deref(), Some("feature/x"));
    place.git(&["switch", "--quiet", "--detach"]);
    assert_eq!(place.found().await.unwrap().unwrap().source, source);
    place.git(&["worktree", "add", "--quiet", "../other", "main"]);
    let other = place.tree.with_file_name("other");
    let found = place.in_dir(&other).await.unwrap().unwrap();
    assert_eq!((found.source, found.root), (on_main.source, other));
}

#[tokio::test]
async fn a_repository_of_long_hashes_is_one() {
    let place = Place::empty();
    place.git(&["init", "--quiet", "--object-format=sha256", "--initial-branch=main"]);
    place.git(&["remote", "add", "origin", "/srv/git/a"]);
    place.write("a", "a");
    place.commit();
    let source = place.found().await.unwrap().unwrap().source;
    assert_eq!((source.commit.len(), source.repository.as_str()), (64, "/srv/git/a"));
}

#[tokio::test]
async fn whatever_is_not_committed_is_no_source() {
    type Change = fn(&Place);
    let cases: [(&str, Change); 6] = [
        ("changed", |place| place.write("src/a", "b")),
        ("new", |place| place.write("src/new", "b")),
        ("deleted", |place| fs::remove_file(place.tree.join("src/a")).unwrap()),
        ("staged", |place| {
            place.write("src/b", "b");
            place.git(&["add", "src/b"]);
        }),
        ("mode", |place| {
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(place.tree.join("src/a"), mode).unwrap();
        }),
        ("a repository of its own", |place| {
            fs::create_dir(place.tree.join("inner")).unwrap();
            place.git_in(&place.tree.join("inner"), &["init", "--quiet"]);
            place.write("inner/file", "x");
        }),
    ];
    for (desc, change) in cases {
        let place = Place::new();
        assert!(place.found().await.is_ok(), "{desc}");
        change(&place);
        let below = place.in_dir(&place.tree.join("src")).await;
        for refused in [place.found().await, below] {
            assert!(matches!(refused, Err(SourceError::Changed)), "{desc}: {refused:?}");
        }
    }
}

#[tokio::test]
async fn a_repository_in_the_tree_is_a_submodule_whatever_names_it() {
    let place = Place::new();
    let inner = place.tree.join("z/inner");
    place.write("z/inner/s", "s");
    for args in [&["init", "--quiet"][..], &["add", "s"], &["commit", "--quiet", "--message", "x"]]
    {
        place.git_in(&inner, args);
    }
    place.commit();
    // Nobody would see this: git does not look into it.
    place.write("z/inner/s", "changed");
    for dir in [place.tree.clone(), place.tree.join("src")] {
        let refused = place.in_dir(&dir).await.unwrap_err();
        assert!(matches!(refused, SourceError::Submodules), "{refused}");
    }
}

#[tokio::test]
async fn what_cannot_be_told_is_not_told_and_the_reason_is() {
    let place = Place::empty();
    place.git(&["init", "--quiet"]);
    assert!(matches!(place.found().await, Err(SourceError::NoOrigin)));
    place.git(&["remote", "add", "origin", ORIGIN]);
    assert!(matches!(place.found().await, Err(SourceError::NoCommit)));

    let place = Place::new();
    place.write("target/deep/x", "x");
    let ignored = place.in_dir(&place.tree.join("target/deep")).await;
    assert!(matches!(ignored, Err(SourceError::NotInCommit { .. })), "{ignored:?}");
    let inside = place.in_dir(&place.tree.join(".git")).await;
    assert!(matches!(inside, Err(SourceError::Git { .. })), "{inside:?}");

    for (url, told) in [
        ("https://ci:pa/ss@host/a", "cannot be told from a password in it"),
        ("https://host/a b", "holds white space"),
        ("ext::sh -c id", "holds white space"),
    ] {
        place.git(&["config", "remote.origin.url", url]);
        let refused = place.refused().await;
        assert!(refused.contains(told) && !refused.contains("pa/ss"), "{refused}");
    }
    place.git(&["config", "remote.origin.url", ORIGIN]);

    // Neither with a submodule nor with a broken repository.
    place.write(".gitmodules", "");
    place.commit();
    assert!(matches!(place.found().await, Err(SourceError::Submodules)));
    fs::write(place.tree.join(".git/config"), "[broken").unwrap();
    let refused = place.refused().await;
    assert!(refused.contains("bad config line"), "{refused}");
}

/// A line of shell that leaves a trace, as something that a repository would have run.
fn trap(place: &Place) -> (String, PathBuf) {
    let trace = place.home.path().join("trace");
    let script = place.home.path().join("trap.sh");
    fs::write(&script, format!("#!/bin/sh\ntouch {}\nexit 1\n", trace.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    (script.display().to_string(), trace)
}

#[tokio::test]
async fn nothing_that_a_repository_brings_along_is_run() {
    type Arm = fn(&Place, &str);
    let cases: [(&str, bool, Arm); 6] = [
        ("a file system monitor", true, |place, trap| {
            place.git(&["config", "core.fsmonitor", trap]);
        }),
        ("a hook", true, |place, trap| {
            let hook = place.tree.join(".git/hooks/post-index-change");
            fs::create_dir_all(hook.parent().unwrap()).unwrap();
            fs::copy(trap, hook).unwrap();
            // The index is to be written again: its notes about the file are old.
            place.write("src/a", "a");
        }),
        ("hooks elsewhere", true, |place, trap| {
            let hooks = place.home.path().join("hooks");
            fs::create_dir(&hooks).unwrap();
            fs::copy(trap, hooks.join("post-index-change")).unwrap();
            place.git(&["config", "core.hooksPath", hooks.to_str().unwrap()]);
            place.write("src/a", "a");
        }),
        ("a filter", false, |place, trap| {
            place.write(".gitattributes", "* filter=trap\n");
            place.commit();
            place.git(&["config", "filter.trap.clean", trap]);
            place.write("src/a", "b");
        }),
        ("a filter in another file", false, |place, trap| {
            let more = place.home.path().join("more");
            fs::write(&more, format!("[filter \"trap\"]\n\tprocess = {trap}\n")).unwrap();
            place.git(&["config", "include.path", more.to_str().unwrap()]);
            fs::write(place.tree.join(".git/info/attributes"), "* filter=trap\n").unwrap();
            place.write("src/a", "b");
        }),
        ("a fetch of what is missing", false, |place, trap| {
            place.git(&["config", "remote.origin.url", "ssh://git@host.invalid/a"]);
            place.git(&["config", "core.sshCommand", trap]);
            place.git(&["config", "remote.origin.promisor", "true"]);
            place.git(&["config", "extensions.partialClone", "origin"]);
            let tree = place.git(&["rev-parse", "HEAD^{tree}"]);
            fs::remove_file(place.tree.join(".git/objects").join(&tree[..2]).join(&tree[2..]))
                .unwrap();
        }),
    ];
    for (desc, is_told, arm) in cases {
        let place = Place::new();
        let (script, trace) = trap(&place);
        arm(&place, &script);
        let _ = fs::remove_file(&trace);
        let found = place.found().await;
        assert!(!trace.exists(), "{desc} was run: {found:?}");
        assert_eq!(found.is_ok(), is_told, "{desc}: {found:?}");
        // git alone would have: the trap is one.
        let _ = Program::new("git")
            .arg("status")
            .current_dir(&place.tree)
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", place.home.path())
            .output()
            .unwrap();
        assert!(trace.exists(), "{desc} is no trap");
    }
}

#[tokio::test]
async fn a_filter_that_the_user_chose_is_used_and_one_of_the_repository_is_named() {
    let place = Place::new();
    place.write(".gitattributes", "*.up filter=up\n");
    place.git(&["config", "--global", "filter.up.clean", "tr a-z A-Z"]);
    place.write("x.up", "HELLO");
    place.commit();
    // Other bytes, which the filter makes the same.
    place.write("x.up", "hello");
    assert!(place.found().await.unwrap().is_some());
    place.git(&["config", "filter.Mine.Clean", "cat"]);
    let refused = place.refused().await;
    assert!(refused.contains("(filter.Mine.clean)"), "{refused}");
}

#[tokio::test]
async fn a_configuration_that_lies_in_the_tree_is_not_its_users() {
    let place = Place::new();
    let (script, trace) = trap(&place);
    place.write(".gitconfig", &format!("[filter \"trap\"]\n\tclean = {script}\n"));
    place.write("home/git/config", &format!("[core]\n\tfsmonitor = {script}\n"));
    place.write(".gitattributes", "src/* filter=trap\n");
    place.commit();
    place.write("src/a", "b");
    let env = [
        ("PATH".into(), PATH.into()),
        ("HOME".into(), place.tree.clone().into_os_string()),
        ("XDG_CONFIG_HOME".into(), place.tree.join("home").into_os_string()),
    ];
    let refused = Checkout::of(&place.tree.join("src"), &env).await;
    assert!(matches!(refused, Err(SourceError::Changed)), "{refused:?}");
    assert!(!trace.exists());
    let mut git = Program::new("git");
    git.arg("status").current_dir(&place.tree).env_clear().envs(env);
    git.output().unwrap();
    assert!(trace.exists(), "it is no trap");
}

#[tokio::test]
async fn the_git_of_the_tree_is_none() {
    let place = Place::new();
    let (script, trace) = trap(&place);
    fs::copy(&script, place.tree.join("git")).unwrap();
    for path in [".:", "", "relative:../tree", "/nonexistent"] {
        let refused = Checkout::of(&place.tree, &place.env(path)).await;
        assert!(matches!(refused, Err(SourceError::NoGit)), "{path:?}: {refused:?}");
    }
    let refused = Checkout::of(&place.tree, &place.env(&format!(".:{PATH}"))).await;
    assert!(matches!(refused, Err(SourceError::Changed)), "{refused:?}");
    assert!(!trace.exists());
}

#[tokio::test]
async fn a_tree_of_somebody_else_is_refused_unless_its_user_trusts_it() {
    let place = Place::new();
    // Only root can give files away.
    if std::os::unix::fs::chown(place.tree.join(".git"), Some(65_534), None).is_err() {
        return;
    }
    std::os::unix::fs::chown(&place.tree, Some(65_534), None).unwrap();
    let refused = place.refused().await;
    assert!(refused.contains("dubious ownership"), "{refused}");
    place.git_in(
        place.home.path(),
        &["config", "--global", "safe.directory", place.tree.to_str().unwrap()],
    );
    assert!(place.found().await.unwrap().is_some());
}

// Time is paused: it goes on as soon as there is nothing to do but to wait for git.
#[tokio::test(start_paused = true)]
async fn git_that_hangs_is_given_up() {
    let place = Place::new();
    let pipe = place.home.path().join("pipe");
    assert!(Program::new("mkfifo").arg(&pipe).status().unwrap().success());
    place.git(&["config", "--global", "core.excludesFile", pipe.to_str().unwrap()]);
    let config = place.tree.join(".git/config");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}[include]\n\tpath = {}\n", pipe.display())).unwrap();
    assert!(matches!(place.found().await, Err(SourceError::Late)));
}

#[test]
fn addresses_are_told_as_slsa_asks_and_without_what_opens_them() {
    for (url, told) in [
        ("https://github.com/a/b", "git+https://github.com/a/b"),
        ("http://token@host/a", "git+http://host/a"),
        ("ssh://git@host:22/a", "git+ssh://git@host:22/a"),
        ("git://host/a", "git+git://host/a"),
        ("file:///srv/a", "git+file:///srv/a"),
        ("git@host:a/b.git", "git@host:a/b.git"),
        ("../a", "../a"),
    ] {
        assert_eq!(address(url.as_bytes()).unwrap(), told);
    }
    let long = format!("https://host/{}", "a".repeat(MAX_ADDRESS));
    for url in ["", "https://host/\u{1b}[31m", "a\nb", &long] {
        assert!(matches!(address(url.as_bytes()), Err(SourceError::Address { .. })), "{url:?}");
    }
    assert!(address(b"https://host/\xff").is_err());
}
