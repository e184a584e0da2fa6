//! Sealed text against tampering, mistyping and other servers.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use danube_core::ErrorClass;

use super::*;

fn key() -> (SealingKey, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (SealingKey::open_or_create(&dir.path().join("keys")).unwrap(), dir)
}

fn names() -> (SecretOwner, SecretKey) {
    ("pipeline/nightly".parse().unwrap(), "API_TOKEN".parse().unwrap())
}

fn cannot_open(key: &SealingKey, sealed: &str) -> String {
    let (owner, name) = names();
    let error = key.open_value(&owner, &name, sealed).err().expect("refused");
    assert!(matches!(error, Error::CannotOpen { .. }), "{error}");
    assert_eq!(error.class(), ErrorClass::Denied);
    error.to_string()
}

#[test]
fn what_is_sealed_with_the_public_text_opens_with_the_key() {
    let (key, dir) = key();
    let (owner, name) = names();
    // By somebody who has nothing but the text.
    let public: SealingPublicKey = key.public_key().to_string().parse().unwrap();
    let again = SealingKey::open(&dir.path().join("keys")).unwrap();
    for len in [0, 1, 15, 300, MAX_SECRET_BYTES] {
        let secret = SecretBytes::new(vec![b'x'; len]);
        let sealed = public.seal(&owner, &name, &secret).unwrap();
        assert!(again.open_value(&owner, &name, &sealed).unwrap() == secret, "{len}");
        assert_ne!(public.seal(&owner, &name, &secret).unwrap(), sealed, "sealed twice alike");
        // Fit for a line of YAML without quotes.
        assert!(
            sealed[SEALED_PREFIX.len()..]
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        );
    }
    let longer = SecretBytes::new(vec![b'x'; MAX_SECRET_BYTES + 1]);
    assert!(matches!(public.seal(&owner, &name, &longer), Err(Error::TooLong)));
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused_with_one_and_the_same_error() {
    let ((key, _dir), (owner, name)) = (key(), names());
    let sealed = key.public_key().seal(&owner, &name, &"hunter2-hunter2".into()).unwrap();
    let bytes = URL_SAFE_NO_PAD.decode(&sealed[SEALED_PREFIX.len()..]).unwrap();
    assert_eq!(bytes.len(), OVERHEAD + 15);
    let text = |bytes: &[u8]| format!("{SEALED_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
    let mut told = Vec::new();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        told.push(cannot_open(&key, &text(&flipped)));
    }
    for len in 0..bytes.len() {
        told.push(cannot_open(&key, &text(&bytes[..len])));
        told.push(cannot_open(&key, &text(&bytes[bytes.len() - len..])));
    }
    // The text has bits that stand for nothing: they are not free either.
    for at in 0..sealed.len() {
        for bit in 0..7 {
            let mut flipped = sealed.clone().into_bytes();
            flipped[at] ^= 1 << bit;
            told.push(cannot_open(&key, &String::from_utf8(flipped).unwrap()));
        }
    }
    for other in ["", "sealed:", "sealed", "hunter2-hunter2"] {
        told.push(cannot_open(&key, other));
    }
    for more in ["=", "A", "\n", " "] {
        told.push(cannot_open(&key, &format!("{sealed}{more}")));
    }
    told.push(cannot_open(&key, &text(&vec![1; OVERHEAD + MAX_SECRET_BYTES + 1])));
    let other_server = self::key().0;
    told.push(cannot_open(&other_server, &sealed));
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn a_value_copied_to_another_pipeline_or_name_is_refused() {
    let (key, _dir) = key();
    let (owner, name) = ("ab".parse().unwrap(), "cd".parse().unwrap());
    let sealed = key.public_key().seal(&owner, &name, &"hunter2".into()).unwrap();
    for (other_owner, other_name) in
        [("ab", "CD"), ("AB", "cd"), ("cd", "ab"), ("a", "bcd"), ("abc", "d")]
    {
        let (o, k) = (other_owner.parse().unwrap(), other_name.parse().unwrap());
        assert!(matches!(key.open_value(&o, &k, &sealed), Err(Error::CannotOpen { .. })));
    }
    assert_eq!(key.open_value(&owner, &name, &sealed).unwrap().expose(), b"hunter2");
}

#[test]
fn a_mistyped_public_key_is_noticed() {
    let text = key().0.public_key().to_string();
    assert!(text.parse::<SealingPublicKey>().is_ok());
    for at in 0..text.len() {
        for bit in 0..7 {
            let mut flipped = text.clone().into_bytes();
            flipped[at] ^= 1 << bit;
            let flipped = String::from_utf8(flipped).unwrap();
            assert!(flipped.parse::<SealingPublicKey>().is_err(), "{flipped}");
        }
        assert!(text[..at].parse::<SealingPublicKey>().is_err());
    }
    let error = "ssh-ed25519 AAAA".parse::<SealingPublicKey>().unwrap_err();
    assert_eq!(error.class(), ErrorClass::Invalid);
    assert!(error.to_string().contains("danube-public-key:"), "{error}");
}

/// Made by another implementation (OpenSSL's X25519 and ChaCha20-Poly1305, and the key schedule of RFC
/// 9180 written out, over Python's `cryptography`), following the documentation of these types.
#[test]
fn the_text_form_does_not_change() {
    let dir = tempfile::tempdir().unwrap();
    let private: Vec<u8> = (1..=32).collect();
    let path = dir.path().join("sealing.key");
    danube_core::files::write_atomic(&path, &private, 0o600, danube_core::files::Existing::Refuse)
        .unwrap();
    let key = SealingKey::open(dir.path()).unwrap();
    assert_eq!(key.public_key().to_string(), GOLDEN_PUBLIC);
    let (owner, name) = names();
    let opened = key.open_value(&owner, &name, GOLDEN_SEALED).unwrap();
    assert!(opened == SecretBytes::from("correct horse battery staple"));
}

const GOLDEN_PUBLIC: &str =
    "danube-public-key:AWGF0_qRikiRB6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9_AsrhtHHw";
const GOLDEN_SEALED: &str = "sealed:AWGF0_qRikiRVxR2nRFr92Q2rnS8eT0sMK0ZA8WaxSc4BcfiaYtBDDb5sab6H4a_CUBqqIburITV5og94zlDrP0IPBn7pB72VLHhV-x_iXmeD7YX2A";

#[test]
fn the_key_file_is_private_made_once_and_refused_when_it_is_not_right() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sealing.key");
    let error = SealingKey::open(dir.path()).unwrap_err();
    assert!(matches!(&error, Error::NoSealingKey { path: p } if *p == path), "{error}");
    let publics: Vec<String> = std::thread::scope(|scope| {
        let open = || SealingKey::open_or_create(dir.path()).unwrap().public_key().to_string();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(publics.iter().all(|public| *public == publics[0]));
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.len(), meta.permissions().mode() & 0o7777), (32, 0o600));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(SealingKey::open_or_create(dir.path()), Err(Error::KeyFile(_))));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    for wrong in [&[][..], &[7; 31], &[0; 32]] {
        fs::write(&path, wrong).unwrap();
        assert!(matches!(SealingKey::open_or_create(dir.path()), Err(Error::DamagedKey { .. })));
    }
}

#[test]
fn a_sealing_key_does_not_print_itself() {
    let (key, dir) = key();
    let private = fs::read(dir.path().join("keys/sealing.key")).unwrap();
    let printed = format!("{key:?}");
    assert!(printed.contains(PUBLIC_KEY_PREFIX), "{printed}");
    for form in [hex::encode(&private), URL_SAFE_NO_PAD.encode(&private), format!("{private:?}")] {
        assert!(!printed.contains(&form), "{printed}");
    }
}
