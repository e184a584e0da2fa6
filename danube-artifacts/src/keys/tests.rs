//! Keys in files, and against `openssl`.

use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn openssl(args: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(args).output().expect("openssl is installed");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn a_key_is_made_once_with_its_copies_and_modes() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    let (made, opened) = SigningKeys::open_or_create(&keys).unwrap();
    assert_eq!(opened, Opened::Created);
    let (again, opened) = SigningKeys::open_or_create(&keys).unwrap();
    assert_eq!(opened, Opened::Found);
    assert_eq!(made.key_id(), again.key_id());

    let id = made.key_id();
    assert_eq!(names(&keys), ["signing", "signing.key", "signing.key.pub"]);
    assert_eq!(names(&keys.join("signing")), [format!("{id}.key"), format!("{id}.pub")]);
    assert_eq!((mode(&keys), mode(&keys.join("signing"))), (0o700, 0o700));
    assert_eq!(mode(&keys.join("signing.key")), 0o600);
    assert_eq!(mode(&keys.join("signing.key.pub")), 0o644);
    assert_eq!(mode(&keys.join(format!("signing/{id}.key"))), 0o600);
    for (current, copy) in [("signing.key", "key"), ("signing.key.pub", "pub")] {
        let copy = fs::read(keys.join(format!("signing/{id}.{copy}"))).unwrap();
        assert_eq!(fs::read(keys.join(current)).unwrap(), copy);
    }
}

#[test]
fn many_who_make_the_first_key_at_once_get_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let opened: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| SigningKeys::open_or_create(dir.path()).unwrap()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let made = opened.iter().filter(|(_, opened)| *opened == Opened::Created).count();
    assert_eq!(made, 1);
    assert!(opened.iter().all(|(key, _)| key.key_id() == opened[0].0.key_id()));
    assert_eq!(names(&dir.path().join("signing")).len(), 2);
}

#[test]
fn what_is_missing_beside_a_key_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let (key, _) = SigningKeys::open_or_create(dir.path()).unwrap();
    let copy = dir.path().join(format!("signing/{}.pub", key.key_id()));
    for missing in [dir.path().join("signing.key.pub"), copy] {
        fs::remove_file(&missing).unwrap();
        SigningKeys::open(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&missing).unwrap(), key.public_pem());
    }
}

#[test]
fn a_private_key_that_is_not_private_or_no_key_is_refused_in_one_sentence() {
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil, &str); 9] = [
        (
            "mode",
            |p| fs::set_permissions(p, fs::Permissions::from_mode(0o644)).unwrap(),
            "chmod 600",
        ),
        ("group", |p| fs::set_permissions(p, fs::Permissions::from_mode(0o640)).unwrap(), "0640"),
        (
            "a link",
            |p| {
                let elsewhere = p.with_extension("moved");
                fs::rename(p, &elsewhere).unwrap();
                symlink(elsewhere, p).unwrap();
            },
            "not a regular file",
        ),
        (
            "a directory",
            |p| {
                fs::remove_file(p).unwrap();
                fs::create_dir(p).unwrap();
            },
            "not a regular file",
        ),
        ("empty", |p| fs::write(p, b"").unwrap(), "not an Ed25519 private key"),
        ("not text", |p| fs::write(p, [0xff; 100]).unwrap(), "not an Ed25519 private key"),
        (
            "cut",
            |p| {
                let half = fs::read(p).unwrap();
                fs::write(p, &half[..half.len() / 2]).unwrap();
            },
            "not an Ed25519 private key",
        ),
        (
            "the public key",
            |p| {
                drop(
                    fs::copy(p.with_extension("key.pub"), p)
                        .and_then(|_| fs::set_permissions(p, fs::Permissions::from_mode(0o600))),
                )
            },
            "not an Ed25519 private key",
        ),
        ("long", |p| fs::write(p, vec![b'a'; 20_000]).unwrap(), "longer than"),
    ];
    for (desc, spoil, told) in cases {
        let dir = tempfile::tempdir().unwrap();
        SigningKeys::open_or_create(dir.path()).unwrap();
        let path = dir.path().join("signing.key");
        let before = fs::read(&path).unwrap();
        spoil(&path);
        let error = SigningKeys::open_or_create(dir.path()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(told) && message.contains("signing.key"), "{desc}: {message}");
        assert!(!message.contains('\n'), "{desc}: {message}");
        let secret = String::from_utf8(before).unwrap();
        let secret = secret.lines().nth(1).unwrap();
        assert!(!format!("{error:?} {message}").contains(secret), "{desc} shows the key");
    }
}

#[test]
fn another_public_key_beside_a_private_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    SigningKeys::open_or_create(dir.path()).unwrap();
    let other = SigningKey::generate().unwrap();
    fs::write(dir.path().join("signing.key.pub"), other.public_pem()).unwrap();
    let message = SigningKeys::open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("another key"), "{message}");
}

#[test]
fn the_private_key_shows_nowhere() {
    let key = SigningKey::generate().unwrap();
    let pem = key.to_pem();
    let secret = pem.lines().nth(1).unwrap();
    let shown = format!("{key} {key:?} {:#?} {:?}", key, key.public_keys());
    assert!(shown.contains(key.key_id().as_str()));
    assert!(!shown.contains(secret) && !shown.contains("SECRET"));
}

#[test]
fn every_key_of_a_directory_is_trusted_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        PublicKeys::from_keys_dir(dir.path()).unwrap_err().to_string().contains("no public key")
    );
    let (old, _) = SigningKeys::open_or_create(dir.path()).unwrap();
    // A rotation: the current names go, the names by id stay.
    fs::remove_file(dir.path().join("signing.key")).unwrap();
    fs::remove_file(dir.path().join("signing.key.pub")).unwrap();
    let (new, _) = SigningKeys::open_or_create(dir.path()).unwrap();
    let keys = PublicKeys::from_keys_dir(dir.path()).unwrap();
    let mut wanted = [old.key_id(), new.key_id()];
    wanted.sort();
    assert_eq!(keys.ids().cloned().collect::<Vec<_>>(), wanted);

    let by_id = dir.path().join("signing");
    let stranger = SigningKey::generate().unwrap();
    let cases: [(&str, &str, u32, &str); 4] = [
        ("misnamed.pub", &stranger.public_pem(), 0o644, "not what it is called"),
        (&format!("{}.pub", stranger.key_id()), &stranger.public_pem(), 0o666, "chmod 644"),
        ("empty.pub", "", 0o644, "not an Ed25519 public key"),
        ("private.pub", &stranger.to_pem(), 0o600, "is a private key"),
    ];
    for (name, text, mode, told) in cases {
        let path = by_id.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let message = PublicKeys::from_keys_dir(dir.path()).unwrap_err().to_string();
        assert!(message.contains(told) && message.contains(name), "{message}");
        fs::remove_file(&path).unwrap();
    }
    let link = by_id.join(format!("{}.pub", stranger.key_id()));
    let target = dir.path().join("elsewhere");
    fs::write(&target, stranger.public_pem()).unwrap();
    symlink(&target, &link).unwrap();
    assert!(PublicKeys::from_keys_dir(dir.path()).unwrap_err().to_string().contains("symbolic"));
}

#[test]
fn a_public_key_for_which_anybody_can_sign_is_refused() {
    // The neutral element: the SubjectPublicKeyInfo of Ed25519 around 01 00 … 00.
    let mut der =
        vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00, 0x01];
    der.extend([0; 31]);
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{encoded}\n-----END PUBLIC KEY-----\n");
    let message = PublicKeys::from_pem(&pem).unwrap_err().to_string();
    assert!(message.contains("small order"), "{message}");
}

fn roles(dir: &Path) -> Vec<(KeyId, KeyRole)> {
    SigningKeys::list(dir).unwrap().into_iter().map(|info| (info.id, info.role)).collect()
}

#[tokio::test]
async fn what_an_old_key_signed_verifies_until_it_is_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let (old, _) = SigningKeys::open_or_create(dir.path()).unwrap();
    let signature = old.sign(b"message").await.unwrap();
    let new = SigningKeys::rotate(dir.path()).unwrap();
    assert_ne!(new.key_id(), old.key_id());
    assert_eq!(SigningKeys::open(dir.path()).unwrap().key_id(), new.key_id());
    let public = PublicKeys::from_pem_file(&dir.path().join("signing.key.pub")).unwrap();
    assert!(public.ids().eq([&new.key_id()]));
    let mut expected = vec![(old.key_id(), KeyRole::Old), (new.key_id(), KeyRole::Current)];
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(roles(dir.path()), expected);
    let verify = || {
        let keys = PublicKeys::from_keys_dir(dir.path()).unwrap();
        keys.verify(None, b"message", &signature).map(Verified::into_inner)
    };
    assert_eq!(verify(), Ok(old.key_id()));

    assert!(
        SigningKeys::revoke(dir.path(), &new.key_id())
            .unwrap_err()
            .to_string()
            .contains("rotate first")
    );
    SigningKeys::revoke(dir.path(), &old.key_id()).unwrap();
    assert_eq!(verify(), Err(SignatureError::Mismatch));
    assert!(roles(dir.path()).contains(&(old.key_id(), KeyRole::Revoked)));
    assert!(!dir.path().join(format!("signing/{}.key", old.key_id())).exists());
    assert!(SigningKeys::revoke(dir.path(), &old.key_id()).is_err());
    // The current key is complete still.
    assert_eq!(SigningKeys::open(dir.path()).unwrap().key_id(), new.key_id());
}

#[test]
fn a_rotation_that_was_killed_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let (old, _) = SigningKeys::open_or_create(dir.path()).unwrap();
    let new = SigningKeys::rotate(dir.path()).unwrap();
    // Killed before the public key was replaced.
    let public = dir.path().join("signing.key.pub");
    fs::write(&public, old.public_pem()).unwrap();
    assert_eq!(SigningKeys::open(dir.path()).unwrap().key_id(), new.key_id());
    assert_eq!(fs::read_to_string(&public).unwrap(), new.public_pem());
    // A public key of which nobody here has the private part is not believed, as before.
    let stranger = SigningKey::generate().unwrap();
    fs::write(&public, stranger.public_pem()).unwrap();
    let id = stranger.key_id();
    fs::write(dir.path().join(format!("signing/{id}.pub")), stranger.public_pem()).unwrap();
    assert!(matches!(SigningKeys::open(dir.path()), Err(Error::Key { .. })));
}

#[test]
fn many_rotations_at_once_leave_one_current_key_and_all_the_others() {
    let dir = tempfile::tempdir().unwrap();
    SigningKeys::open_or_create(dir.path()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5).for_each(|_| drop(SigningKeys::rotate(dir.path()).unwrap())));
            scope.spawn(|| (0..20).for_each(|_| drop(SigningKeys::open(dir.path()).unwrap())));
        }
    });
    let roles = roles(dir.path());
    assert_eq!(roles.len(), 21);
    assert_eq!(roles.iter().filter(|(_, role)| *role == KeyRole::Current).count(), 1);
    let public = PublicKeys::from_pem_file(&dir.path().join("signing.key.pub")).unwrap();
    assert!(public.ids().eq([&SigningKeys::open(dir.path()).unwrap().key_id()]));
}

#[test]
fn there_is_nothing_to_rotate_where_there_is_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let error = SigningKeys::rotate(dir.path()).unwrap_err();
    assert_eq!(error.class(), danube_core::ErrorClass::NotFound);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn openssl_reads_our_keys_and_we_read_those_of_openssl() {
    let dir = tempfile::tempdir().unwrap();
    let (key, _) = SigningKeys::open_or_create(dir.path()).unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let public = openssl(&["pkey", "-in", &path("signing.key"), "-pubout"]);
    assert_eq!(String::from_utf8(public).unwrap(), key.public_pem());

    let der = openssl(&["pkey", "-pubin", "-in", &path("signing.key.pub"), "-outform", "DER"]);
    let digest = Sha256::digest(der);
    let id: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(id, key.key_id().as_str());

    let theirs = tempfile::tempdir().unwrap();
    let made = openssl(&["genpkey", "-algorithm", "ed25519"]);
    files::write_atomic(&theirs.path().join("signing.key"), &made, 0o600, Existing::Refuse)
        .unwrap();
    let (key, opened) = SigningKeys::open_or_create(theirs.path()).unwrap();
    assert_eq!(opened, Opened::Found);
    assert!(PublicKeys::from_keys_dir(theirs.path()).unwrap().ids().eq([&key.key_id()]));
}

crate::signing_conformance!(ed25519, {
    let key = SigningKey::generate().unwrap();
    let public = key.public_keys();
    (key, public)
});

#[test]
fn what_killed_writers_of_keys_left_goes_when_it_is_old_or_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path();
    assert_eq!(SigningKeys::sweep(&keys.join("missing"), danube_core::Timestamp::MAX).unwrap(), 0);
    let (first, _) = SigningKeys::open_or_create(keys).unwrap();
    let left = |below: &str| {
        let path = keys.join(below);
        // Killed between the two names: what goes is the name.
        fs::hard_link(keys.join(format!("signing/{}.key", first.key_id())), &path).unwrap();
        path
    };
    let age = |path: &Path, seconds| {
        let copy = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        files::write_atomic(path, &copy, 0o600, Existing::Refuse).unwrap();
        let file = fs::File::open(path).unwrap();
        let now = file.metadata().unwrap().modified().unwrap();
        file.set_modified(now - std::time::Duration::from_secs(seconds)).unwrap();
    };
    let (old, young) = (left(".tmp-0123456789abcdef"), left("signing/.tmp-0123456789abcdef"));
    age(&old, 3_700);
    age(&young, 3_000);
    // Not ours, however old.
    let kept = [keys.join(".tmp-notes"), keys.join("signing/.tmp-0123456789abcdeg")];
    for path in &kept {
        fs::write(path, "").unwrap();
        age(path, 1_000_000);
    }
    SigningKeys::rotate(keys).unwrap();
    assert!(!old.exists() && young.exists());

    let link = left(".tmp-00000000000000aa");
    let half = keys.join(".tmp-00000000000000bb");
    fs::write(&half, "-----BEGIN PRIVATE KEY-----\n").unwrap();
    SigningKeys::revoke(keys, &first.key_id()).unwrap();
    assert!(!young.exists() && !link.exists(), "copies of a revoked key");
    assert!(half.exists());
    let before = danube_core::Timestamp::UNIX_EPOCH;
    assert_eq!(SigningKeys::sweep(keys, before).unwrap(), 0);
    assert_eq!(SigningKeys::sweep(keys, danube_core::Timestamp::MAX).unwrap(), 1);
    assert!(!half.exists() && kept.iter().all(|path| path.exists()));
    SigningKeys::open(keys).unwrap();
}
