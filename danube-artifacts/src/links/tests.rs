//! Links hold as they were made, and in no other way.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use danube_core::{ManualClock, SystemClock};
use proptest::prelude::*;

use super::*;
use crate::MemoryBlobs;

const NOW: i64 = 1_700_000_000;
const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// The key of the vectors: the bytes 0 to 31.
fn known_key() -> LinkKey {
    LinkKey::from_bytes(std::array::from_fn(|at| at as u8))
}

fn grant(path: &str, options: &LinkOptions) -> LinkGrant {
    let key = BlobKey::from_path(&"j-1".parse().unwrap(), path).unwrap();
    LinkGrant::new(&key, options, at(NOW)).unwrap()
}

/// One of each kind.
fn grants() -> Vec<LinkGrant> {
    let range = ByteRange::new(3, 9);
    let minute = Duration::from_mins(1);
    let digest: Sha256Digest = HELLO.parse().unwrap();
    vec![
        grant("out/a.txt", &LinkOptions::get()),
        grant("o ut/ä%41.bin", &LinkOptions::get().with_range(range).with_expires_in(minute)),
        grant(
            "in.bin",
            &LinkOptions::put()
                .with_size_bytes(5)
                .with_expected(digest)
                .with_expires_in(crate::MAX_LINK_LIFE),
        ),
        grant(".danube/signatures/out/a.txt.sig", &LinkOptions::get()),
    ]
}

/// Written by another program: the script stands in `docs/formats.md`.
const VECTORS: [&str; 4] = [
    "/api/v1/links/j-1/out/a.txt?method=GET&expires=1700000900&key=23bd38f7187b7481&signature=834999c8b0c0f861d56378ed4e99b8759db4a55fcaa92bef167fb957c0264297",
    "/api/v1/links/j-1/o%20ut/%C3%A4%2541.bin?method=GET&expires=1700000060&range=3-8&key=23bd38f7187b7481&signature=cb6d01bafedbc0343099e223434f5af23c0b0ebfece89b9acccb9d5a5bca19bf",
    "/api/v1/links/j-1/in.bin?method=PUT&expires=1700604800&size=5&sha256=2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824&key=23bd38f7187b7481&signature=543b38d0bcc4bf3c15d79f8a986cdbbcc92c308abe011a9c5ea8474997791032",
    "/api/v1/links/j-1/.danube/signatures/out/a.txt.sig?method=GET&expires=1700000900&key=23bd38f7187b7481&signature=c104fbb1957210204183b05246ddefc11659913e2ccee785cdeaf5da1baf6de9",
];

#[test]
fn links_are_those_that_another_program_writes() {
    let key = known_key();
    assert_eq!(key.id(), "23bd38f7187b7481");
    for (grant, vector) in grants().iter().zip(VECTORS) {
        assert_eq!(key.sign(grant), vector);
        assert_eq!(*key.verify(grant.method, vector, at(NOW)).unwrap(), *grant);
    }
}

#[test]
fn no_flipped_bit_and_no_cut_holds() {
    let key = known_key();
    for (grant, link) in grants().iter().zip(VECTORS) {
        for bit in 0..link.len() * 8 {
            let mut bytes = link.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Ok(flipped) = String::from_utf8(bytes) else { continue };
            let refused = key.verify(grant.method, &flipped, at(NOW));
            assert!(refused.is_err(), "{flipped}");
        }
        for end in (0..link.len()).filter(|end| link.is_char_boundary(*end)) {
            assert!(key.verify(grant.method, &link[..end], at(NOW)).is_err(), "{end}");
            assert!(key.verify(grant.method, &link[end + 1..], at(NOW)).is_err(), "{end}");
        }
    }
}

/// Everything that means the same to somebody who reads more kindly.
#[test]
fn a_link_has_one_spelling() {
    let key = known_key();
    let link = VECTORS[1];
    let (path, query) = link.split_once('?').unwrap();
    let mut others = vec![
        link.to_uppercase(),
        link.replace("%C3%A4", "%c3%a4"),
        link.replace("%C3%A4", "ä"),
        link.replace("%20", "+"),
        link.replace("%20", " "),
        link.replace("%20", "%2520"),
        link.replace("%2541", "A"),
        link.replace("%2541", "%41"),
        link.replace("ut/", "ut%2F"),
        link.replace("ut/", "ut%2f"),
        link.replace("ut/", "ut//"),
        link.replace("ut/", "ut/./"),
        link.replace("ut/", "ut/../o%20ut/"),
        link.replace("ut/", "ut/..%2fo%20ut/"),
        link.replace("ut/", "ut/%2e%2e/o%20ut/"),
        link.replace("bin", "bi%6E"),
        link.replace(".bin", ".bin/"),
        link.replace(".bin", ".bin%00"),
        link.replace("j-1", "j%2D1"),
        link.replace("j-1", "J-1"),
        link.replace("/j-1", "//j-1"),
        link.replace("links", "Links"),
        link.replace("?", "?&"),
        link.replace("range=3-8", "range=03-8"),
        link.replace("range=3-8", "range=3-08"),
        link.replace("range=3-8", "range=+3-8"),
        link.replace("range=3-8", "range=3-9"),
        link.replace("range=3-8", "range=3-"),
        link.replace("range=3-8", "range=8-3"),
        link.replace("range=3-8", "range=3-18446744073709551615"),
        link.replace("range=3-8", "range="),
        link.replace("&range=3-8", ""),
        link.replace("&key=", "&size=&key="),
        link.replace("&key=", "&size=5&key="),
        link.replace("&key=", "&range=3-8&key="),
        link.replace("expires=1", "expires=01"),
        link.replace("expires=1", "expires=9999999991"),
        link.replace("expires=1", "expires=-1"),
        link.replace("method=GET", "method=get"),
        link.replace("method=GET", "method=HEAD"),
        link.replace("method=GET", "method=PUT"),
        format!("{link}&"),
        format!("{link}&x=1"),
        format!("{link}&signature={}", "0".repeat(64)),
        format!("{link}#fragment"),
        format!("{link}?"),
        format!("{path}?x=1&{query}"),
        format!("http://127.0.0.1:8080{link}"),
        format!("{link}{}", "0".repeat(MAX_TARGET_BYTES)),
    ];
    let fields: Vec<&str> = query.split('&').collect();
    for first in 0..fields.len() {
        others.push(format!("{path}?{}&{query}", fields[first]));
        for second in first + 1..fields.len() {
            let mut moved = fields.clone();
            moved.swap(first, second);
            others.push(format!("{path}?{}", moved.join("&")));
        }
    }
    for other in others {
        assert_ne!(other, link);
        let refused = key.verify(LinkMethod::Get, &other, at(NOW)).unwrap_err();
        let known = [LinkRefusal::Malformed, LinkRefusal::Forged, LinkRefusal::OtherKey];
        assert!(known.contains(&refused), "{other}: {refused:?}");
        assert_eq!(refused.class(), ErrorClass::Denied);
    }
}

#[test]
fn a_link_is_for_one_method_until_it_expires() {
    let (key, link) = (known_key(), VECTORS[0]);
    assert!(key.verify(LinkMethod::Get, link, at(NOW + 899)).is_ok());
    let expired = LinkRefusal::Expired { at: at(NOW + 900) };
    assert_eq!(key.verify(LinkMethod::Get, link, at(NOW + 900)).unwrap_err(), expired);
    assert_eq!(key.verify(LinkMethod::Get, link, Timestamp::MAX).unwrap_err(), expired);
    let other = LinkRefusal::Method { allowed: LinkMethod::Get };
    assert_eq!(key.verify(LinkMethod::Put, link, at(NOW)).unwrap_err(), other);
    // Whoever only guesses is not told whether it would have expired.
    let guessed = link.replace("signature=8", "signature=7");
    let refused = key.verify(LinkMethod::Put, &guessed, Timestamp::MAX).unwrap_err();
    assert_eq!(refused, LinkRefusal::Forged);
}

#[test]
fn another_key_opens_nothing_also_under_the_name_of_the_first() {
    let (mine, other) = (known_key(), LinkKey::generate().unwrap());
    assert_ne!(mine.id(), other.id());
    let link = VECTORS[0];
    let refused = other.verify(LinkMethod::Get, link, at(NOW)).unwrap_err();
    assert_eq!(refused, LinkRefusal::OtherKey);
    let renamed = link.replace(mine.id(), other.id());
    let refused = other.verify(LinkMethod::Get, &renamed, at(NOW)).unwrap_err();
    assert_eq!(refused, LinkRefusal::Forged);
}

#[test]
fn no_field_reaches_into_the_next() {
    // What would be the same text without lengths: a name that looks like the fields after it.
    let key = known_key();
    let named = |name: &str| grant(name, &LinkOptions::get());
    let plain = named("a");
    for sly in ["a:3:GET", "amethod:3:GET", "amethod=GET", "a?method=GET&expires=1", "a&b=c#d"] {
        let sly = named(sly);
        assert_ne!(sly.signed(key.id()), plain.signed(key.id()));
        let link = key.sign(&sly);
        assert_eq!(*key.verify(LinkMethod::Get, &link, at(NOW)).unwrap(), sly, "{link}");
    }
}

#[test]
fn the_key_is_made_once_kept_private_and_refused_when_it_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    let made = LinkKey::open_or_create(&keys).unwrap();
    let path = keys.join(KEY_FILE);
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o7777), (32, 0o600));
    let again = LinkKey::open_or_create(&keys).unwrap();
    assert_eq!(again.id(), made.id());
    assert!(!format!("{made:?}").contains(&to_hex(&*made.bytes)), "{made:?}");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let refused = LinkKey::open_or_create(&keys).unwrap_err();
    assert!(matches!(refused, Error::PrivateKey(PrivateFileError::TooOpen { .. })), "{refused:?}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    for wrong in [&b""[..], b"short", &[7; 31]] {
        fs::write(&path, wrong).unwrap();
        let refused = LinkKey::open_or_create(&keys).unwrap_err();
        assert!(matches!(refused, Error::Key { .. }), "{refused:?}");
        assert_eq!(refused.class(), ErrorClass::Denied);
    }
    fs::write(&path, [7; 33]).unwrap();
    let refused = LinkKey::open_or_create(&keys).unwrap_err();
    assert!(matches!(refused, Error::PrivateKey(PrivateFileError::TooLong { .. })), "{refused:?}");
    fs::rename(&path, keys.join("moved")).unwrap();
    symlink("moved", &path).unwrap();
    let refused = LinkKey::open_or_create(&keys).unwrap_err();
    assert!(matches!(refused, Error::PrivateKey(PrivateFileError::NotRegular { .. })));
    // Removed, a new one is made.
    fs::remove_file(&path).unwrap();
    assert_ne!(LinkKey::open_or_create(&keys).unwrap().id(), made.id());
}

#[test]
fn of_many_that_make_the_key_at_once_all_get_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let open = || LinkKey::open_or_create(&dir.path().join("keys")).unwrap().id().to_owned();
    let ids: Vec<String> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test]
async fn a_store_without_links_gets_some() {
    let clock = ManualClock::new(Timestamp::new(NOW, 999_000_000).unwrap());
    let key = known_key();
    let blob = BlobKey::from_path(&"j-1".parse().unwrap(), "out/a.txt").unwrap();
    let store = Linked::new(
        MemoryBlobs::new(),
        "https://ci.example/danube/",
        key.clone(),
        Arc::new(clock.clone()),
    );
    let link = store.link(&blob, &LinkOptions::get()).await.unwrap();
    assert_eq!(link.url, format!("https://ci.example/danube{}", VECTORS[0]));
    assert_eq!((link.expires_at, link.method), (at(NOW + 900), LinkMethod::Get));
    assert!(link.headers.is_empty());
    assert_eq!(store.to_string(), "blobs in memory");
    assert!(!format!("{store:?}").contains(&to_hex(&*key.bytes)));

    let clock = Arc::new(SystemClock);
    let through_arc: Arc<dyn BlobStore> = Arc::new(Linked::new(store, "http://x", key, clock));
    let link = through_arc.link(&blob, &LinkOptions::put()).await.unwrap();
    assert!(link.url.starts_with("http://x/api/v1/links/j-1/out/a.txt?method=PUT&"), "{link:?}");
}

/// What may be a name, with what URLs and the message give a meaning.
fn names() -> impl Strategy<Value = String> {
    proptest::collection::vec("[a-zA-Z0-9 .:%?&=#+äλ🦀-]{1,8}", 1..4)
        .prop_map(|parts| parts.join("/"))
        .prop_filter("a name", |name| name.parse::<danube_core::ArtifactName>().is_ok())
}

fn options() -> impl Strategy<Value = LinkOptions> {
    let life = (1..=crate::MAX_LINK_LIFE.as_secs()).prop_map(Duration::from_secs);
    let range = proptest::option::of(
        (any::<u64>(), any::<u64>()).prop_filter_map("a range that is not empty", |(a, b)| {
            (a != b).then(|| ByteRange::new(a.min(b), a.max(b)))
        }),
    );
    let put = (proptest::option::of(any::<u64>()), proptest::option::of(any::<[u8; 32]>()));
    (any::<bool>(), life, range, put).prop_map(|(get, life, range, (size_bytes, digest))| {
        let method = if get { LinkOptions::get() } else { LinkOptions::put() };
        let mut options = method.with_expires_in(life);
        if get {
            options.range = range;
        } else {
            (options.size_bytes, options.expected) =
                (size_bytes, digest.map(Sha256Digest::from_bytes));
        }
        options
    })
}

proptest! {
    #[test]
    fn every_link_holds_and_says_what_it_was_made_for(name in names(), options in options()) {
        let (key, grant) = (known_key(), grant(&name, &options));
        let link = key.sign(&grant);
        prop_assert!(link.bytes().all(|byte| byte.is_ascii_graphic()), "{}", link);
        prop_assert_eq!(&*key.verify(options.method, &link, at(NOW)).unwrap(), &grant);
    }

    #[test]
    fn of_two_that_differ_neither_has_the_other_s_signature(
        one in (names(), options()), other in (names(), options()),
    ) {
        let key = known_key();
        let (one, other) = (grant(&one.0, &one.1), grant(&other.0, &other.1));
        prop_assume!(one != other);
        prop_assert_ne!(one.signed(key.id()), other.signed(key.id()));
        let (signed, target) = (key.sign(&one), key.sign(&other));
        let (_, signature) = signed.split_once("&signature=").unwrap();
        let (unsigned, _) = target.split_once("&signature=").unwrap();
        let forged = format!("{unsigned}&signature={signature}");
        let refused = key.verify(other.method, &forged, at(NOW)).unwrap_err();
        prop_assert_eq!(refused, LinkRefusal::Forged);
    }

    /// One edit anywhere: a byte put in, taken out or swapped for another.
    #[test]
    fn no_edit_holds(
        name in names(), options in options(), place in any::<prop::sample::Index>(),
        byte in "[ -~]", how in 0..3,
    ) {
        let (key, grant) = (known_key(), grant(&name, &options));
        let link = key.sign(&grant);
        let at_byte = place.index(link.len());
        let end = if how == 0 { at_byte } else { at_byte + 1 };
        let put = if how == 1 { "" } else { &*byte };
        let edited = format!("{}{put}{}", &link[..at_byte], &link[end..]);
        prop_assume!(edited != link);
        prop_assert!(key.verify(grant.method, &edited, at(NOW)).is_err(), "{}", edited);
    }

    #[test]
    fn whatever_comes_is_answered(target in "(/api/v1/links/)?[ -~äλ]{0,200}") {
        prop_assert!(known_key().verify(LinkMethod::Get, &target, at(NOW)).is_err());
    }
}
