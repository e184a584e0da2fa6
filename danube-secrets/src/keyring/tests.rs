//! Sealing against the RFC's vectors and against tampering, and the key directory against accidents.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use danube_core::ErrorClass;
use proptest::prelude::*;

use super::rfc8452::VECTORS;
use super::*;

fn keyring(key: u8) -> Keyring {
    let key: KeyBytes = Zeroizing::new([key; KEY_BYTES]);
    let current = key_id(&key);
    Keyring { current, keys: BTreeMap::from([(current, key)]) }
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
        let (key, nonce) = (key.try_into().unwrap(), nonce.try_into().unwrap());
        let mut text = plain.clone();
        let tag = encrypt(&key, &nonce, &associated, &mut text);
        assert_eq!([&text[..], &tag].concat(), expected, "{vector:?}");
        assert!(decrypt(&key, &nonce, &associated, &mut text, &tag));
        assert_eq!(text, plain);
    }
}

/// Made by another implementation (OpenSSL's, over Python's `cryptography`), following the
/// documentation of [`Keyring`].
#[test]
fn the_stored_form_does_not_change() {
    let mut key = [0; KEY_BYTES];
    (1..).zip(&mut key).for_each(|(n, byte)| *byte = n);
    let key: KeyBytes = Zeroizing::new(key);
    let current = key_id(&key);
    let keyring = Keyring { current, keys: BTreeMap::from([(current, key)]) };
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
    let (old, mut new, (owner, name)) = (keyring(7), keyring(8), names());
    let secret = SecretBytes::from("hunter2");
    let sealed = old.seal(&owner, &name, &secret).unwrap();
    cannot_open(&new, &owner, &name, sealed.as_bytes());
    new.keys.extend(old.keys.clone());
    assert!(new.open_value(&owner, &name, &sealed).unwrap() == secret);
    let resealed = new.seal(&owner, &name, &secret).unwrap();
    cannot_open(&old, &owner, &name, resealed.as_bytes());
}

#[test]
fn sealing_twice_gives_two_different_values_and_nonces_do_not_repeat() {
    let (keyring, (owner, name)) = (keyring(7), names());
    let secret = SecretBytes::from("hunter2");
    let nonces: std::collections::BTreeSet<_> = (0..10_000)
        .map(|_| {
            let sealed = keyring.seal(&owner, &name, &secret).unwrap();
            sealed.as_bytes()[HEADER_BYTES..][..NONCE_BYTES].to_vec()
        })
        .collect();
    assert_eq!(nonces.len(), 10_000);
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
    let by_id = keys.join("encryption").join(file_name(&first.current));
    for path in [&keys.join("encryption.key"), &by_id] {
        let meta = fs::metadata(path).unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o7777), (32, 0o600), "{path:?}");
    }
    assert_eq!(fs::metadata(&keys).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::read(keys.join("encryption.key")).unwrap(), fs::read(&by_id).unwrap());
    for again in [Keyring::open_or_create(&keys).unwrap(), Keyring::open(&keys).unwrap()] {
        assert!(again.open_value(&owner, &name, &sealed).unwrap() == secret);
        assert_eq!(again.keys.len(), 1);
    }

    // A crash after the first of the two files.
    fs::remove_file(&by_id).unwrap();
    assert!(Keyring::open(&keys).is_ok() && !by_id.exists());
    assert!(Keyring::open_or_create(&keys).is_ok() && by_id.exists());
}

#[test]
fn several_that_open_a_new_directory_at_once_end_with_one_key() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Keyring::open_or_create(dir.path()).unwrap().current;
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
    let newer: KeyBytes = random().unwrap();
    write_atomic(&dir.path().join("encryption.key"), &*newer, 0o600, Existing::Replace).unwrap();
    let keyring = Keyring::open_or_create(dir.path()).unwrap();
    assert_eq!((keyring.keys.len(), keyring.current), (2, key_id(&newer)));
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
    assert!(printed.contains(&hex::encode(keyring.current)) && printed.contains("keys: 1"));
    assert!(!printed.contains("107, 107") && !printed.contains("6b6b"), "{printed}");
}
