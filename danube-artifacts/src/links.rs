//! Links for stores that have none of their own: an HMAC over everything that a link allows.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use danube_core::files::{self, Existing, PrivateFileError};
use danube_core::{ByteRange, Clock, ErrorClass, JobId, Sha256Digest, Timestamp};
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{
    Access, Blob, BlobCapabilities, BlobKey, BlobStat, BlobStore, ByteStream, Error, Link,
    LinkMethod, LinkOptions, PutOptions, Stored, Tier, Verified,
};

#[cfg(test)]
mod tests;

/// Where a server answers links, below its base URL.
pub const LINKS_PATH: &str = "/api/v1/links/";

const KEY_FILE: &str = "links.key";
const KEY_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 32;
/// The longest path and query that is looked at: a name of 1,024 bytes, each of them escaped, needs
/// under 3,600.
const MAX_TARGET_BYTES: usize = 4096;
/// What stands at the beginning of everything that is signed: another form of links gets another one.
const SIGNED: &str = "danube-link-v1\n";
/// What the id of the key is the HMAC of; nothing that is signed begins like it.
const KEY_ID: &str = "danube-link-key-v1\n";
/// What is written as it is: the unreserved characters of RFC 3986 and the separator.
const ESCAPED: AsciiSet =
    NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The key that links are signed with: HMAC-SHA256. It cannot be printed, and is zeroised on drop. Clones are
/// copies.
///
/// It lies in `links.key`: 32 random bytes, mode 0600. There is one at a time: with the file removed and the
/// server started again, every link that was made before holds no more.
#[derive(Clone)]
pub struct LinkKey {
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    id: Box<str>,
}

/// What a link allows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkGrant {
    /// The blob.
    pub key: BlobKey,
    /// What may be done with it.
    pub method: LinkMethod,
    /// When that ends.
    pub expires_at: Timestamp,
    /// Of a `Get`: the only range that may be read.
    pub range: Option<ByteRange>,
    /// Of a `Put`: how many bytes must come.
    pub size_bytes: Option<u64>,
    /// Of a `Put`: what they must hash to.
    pub expected: Option<Sha256Digest>,
}

/// Why a link allows nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkRefusal {
    /// Nobody writes links like this: something is missing, added, repeated, moved or escaped otherwise.
    #[error("this is not a link as it was made: use it byte for byte")]
    Malformed,
    /// It was made with a key that is not the current one.
    #[error("this link was made with another key: ask for a new one")]
    OtherKey,
    /// Its signature does not match.
    #[error("this link was changed: use it byte for byte")]
    Forged,
    /// It holds, and allows something else.
    #[error("this link is for {allowed}")]
    Method {
        /// What it allows.
        allowed: LinkMethod,
    },
    /// It held.
    #[error("this link expired at {at}: ask for a new one")]
    Expired {
        /// When.
        at: Timestamp,
    },
}

impl LinkRefusal {
    /// What a caller can do about it.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        ErrorClass::Denied
    }
}

impl LinkKey {
    /// A key of these bytes, which must be random.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        let bytes = Zeroizing::new(bytes);
        let id = to_hex(&hmac(&*bytes, KEY_ID).finalize().into_bytes()[..8]);
        Self { bytes, id: id.into() }
    }

    /// A new key from the system's random bytes, in memory alone.
    ///
    /// # Errors
    ///
    /// [`Error::Sign`] when the system gives no random bytes.
    pub fn generate() -> Result<Self, Error> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(&mut *bytes)
            .map_err(|e| Error::Sign { signer: "a new key".to_owned(), source: e.into() })?;
        Ok(Self::from_bytes(*bytes))
    }

    /// The key of a directory of keys; where there is none, the directory (0700) and a new key are made. Of
    /// several processes that do so at once one makes the key and all get it. It blocks.
    ///
    /// # Errors
    ///
    /// [`Error::PrivateKey`] when the file is not private; [`Error::Key`] when it holds something else;
    /// [`Error::File`] when it cannot be written.
    pub fn open_or_create(keys_dir: &Path) -> Result<Self, Error> {
        let path = keys_dir.join(KEY_FILE);
        match Self::open(&path) {
            Err(Error::PrivateKey(PrivateFileError::Io { source, .. }))
                if source.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        let failed = |operation, source| Error::File { operation, path: path.clone(), source };
        files::create_private_dir(keys_dir).map_err(|e| failed("create the directory of", e))?;
        let key = Self::generate()?;
        match files::write_atomic(&path, &*key.bytes, 0o600, Existing::Refuse) {
            Ok(()) => Ok(key),
            // Somebody else was faster: that key is the one.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Self::open(&path),
            Err(e) => Err(failed("write", e)),
        }
    }

    fn open(path: &Path) -> Result<Self, Error> {
        let bytes = files::read_private(path, KEY_BYTES as u64).map_err(Error::PrivateKey)?;
        let bytes = Zeroizing::new(bytes);
        match <[u8; KEY_BYTES]>::try_from(&**bytes) {
            Ok(bytes) => Ok(Self::from_bytes(bytes)),
            Err(_) => {
                let reason = format!(
                    "has {} bytes, not {KEY_BYTES}: restore it from a backup, or remove it to have a new key made; links made with the old one then hold no more",
                    bytes.len()
                );
                Err(Error::Key { path: path.to_owned(), reason })
            }
        }
    }

    /// The first 16 hexadecimal digits of an HMAC of the key. It tells whether this key made a link, and
    /// proves nothing.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The path and the query of the link that grants this.
    fn sign(&self, grant: &LinkGrant) -> String {
        let signature = self.mac(grant).finalize().into_bytes();
        grant.target(&self.id, &signature)
    }

    /// What the link of this path and query grants, if it holds now and is for `method`. The signature is
    /// compared in constant time. There is one spelling of every link, and no other holds.
    ///
    /// # Errors
    ///
    /// [`LinkRefusal`]. Only the holder of a link that was made is told [`Method`](LinkRefusal::Method) or
    /// [`Expired`](LinkRefusal::Expired).
    pub fn verify(
        &self,
        method: LinkMethod,
        target: &str,
        now: Timestamp,
    ) -> Result<Verified<LinkGrant>, LinkRefusal> {
        let Parsed { grant, key, signature } = parse(target).ok_or(LinkRefusal::Malformed)?;
        if key != &*self.id {
            return Err(LinkRefusal::OtherKey);
        }
        if grant.target(key, &signature) != target {
            return Err(LinkRefusal::Malformed);
        }
        self.mac(&grant).verify_slice(&signature).map_err(|_| LinkRefusal::Forged)?;
        if grant.method != method {
            return Err(LinkRefusal::Method { allowed: grant.method });
        }
        if now >= grant.expires_at {
            return Err(LinkRefusal::Expired { at: grant.expires_at });
        }
        Ok(Verified::vouch(grant))
    }

    fn mac(&self, grant: &LinkGrant) -> Hmac<Sha256> {
        hmac(&*self.bytes, &grant.signed(&self.id))
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkKey").field("id", &self.id).finish_non_exhaustive()
    }
}

fn hmac(key: &[u8], message: &str) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length").chain_update(message)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

impl LinkGrant {
    /// What `options` allow of a blob, from now on.
    fn new(key: &BlobKey, options: &LinkOptions, now: Timestamp) -> Result<Self, Error> {
        options.validate()?;
        let LinkOptions { method, expires_in, range, size_bytes, expected } = *options;
        // A week at most: no clock is so near to the end of time.
        let life = i64::try_from(expires_in.as_secs()).unwrap_or(i64::MAX);
        let expires_at =
            Timestamp::from_second(now.as_second().saturating_add(life)).unwrap_or(Timestamp::MAX);
        Ok(Self { key: key.clone(), method, expires_at, range, size_bytes, expected })
    }

    /// What stands in the query, in its order; what is not limited is empty, and left out there.
    fn query(&self, key_id: &str) -> [(&'static str, String); 6] {
        let text = |number: Option<u64>| number.map(|n| n.to_string()).unwrap_or_default();
        // As HTTP writes ranges: with the last byte.
        let range = self.range.map(|range| format!("{}-{}", range.start, range.end - 1));
        [
            ("method", self.method.to_string()),
            ("expires", self.expires_at.as_second().to_string()),
            ("range", range.unwrap_or_default()),
            ("size", text(self.size_bytes)),
            ("sha256", self.expected.map(|digest| digest.to_string()).unwrap_or_default()),
            ("key", key_id.to_owned()),
        ]
    }

    /// The message that is signed: every field by name, length in bytes and value, also those that are empty.
    fn signed(&self, key_id: &str) -> String {
        let path = [("job", self.key.job().to_string()), ("path", self.key.path())];
        let mut message = SIGNED.to_owned();
        for (name, value) in path.into_iter().chain(self.query(key_id)) {
            let _ = writeln!(message, "{name}:{}:{value}", value.len());
        }
        message
    }

    /// The path and the query with this signature.
    fn target(&self, key_id: &str, signature: &[u8]) -> String {
        let (job, path) = (self.key.job(), self.key.path());
        let mut target = format!("{LINKS_PATH}{job}/{}?", utf8_percent_encode(&path, &ESCAPED));
        for (name, value) in self.query(key_id) {
            if !value.is_empty() {
                let _ = write!(target, "{name}={value}&");
            }
        }
        target.push_str("signature=");
        target.push_str(&to_hex(signature));
        target
    }
}

/// What a link says of itself. Nothing of it counts until it was verified.
struct Parsed<'a> {
    grant: LinkGrant,
    key: &'a str,
    signature: [u8; SIGNATURE_BYTES],
}

/// Lenient where writing it again shows the difference: order, repetition, additions, escapes, leading zeros.
fn parse(target: &str) -> Option<Parsed<'_>> {
    if target.len() > MAX_TARGET_BYTES {
        return None;
    }
    let (path, query) = target.strip_prefix(LINKS_PATH)?.split_once('?')?;
    let (job, path) = path.split_once('/')?;
    let path = percent_decode_str(path).decode_utf8().ok()?;
    let query: BTreeMap<&str, &str> =
        query.split('&').map(|field| field.split_once('=')).collect::<Option<_>>()?;
    let number = |name| query.get(name).map(|text| text.parse::<u64>()).transpose().ok();
    let range = match query.get("range") {
        None => None,
        Some(range) => {
            let (start, last) = range.split_once('-')?;
            let range =
                ByteRange::new(start.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?);
            Some(range).filter(|range| !range.is_empty()).map(Some)?
        }
    };
    let digest = |name| query.get(name).map(|hex| hex.parse::<Sha256Digest>()).transpose().ok();
    let grant = LinkGrant {
        key: BlobKey::from_path(&job.parse().ok()?, &path)?,
        method: match *query.get("method")? {
            "GET" => LinkMethod::Get,
            "PUT" => LinkMethod::Put,
            _ => return None,
        },
        expires_at: Timestamp::from_second(i64::try_from(number("expires")??).ok()?).ok()?,
        range,
        size_bytes: number("size")?,
        expected: digest("sha256")?,
    };
    // As long as a digest, and written the same way.
    let signature = *digest("signature")??.as_bytes();
    Some(Parsed { grant, key: query.get("key")?, signature })
}

/// A store with links that a server of ours answers at [`LINKS_PATH`], whoever keeps the bytes. All the rest is
/// the store's.
#[derive(Debug, Clone)]
pub struct Linked<B> {
    inner: B,
    base_url: Arc<str>,
    key: LinkKey,
    clock: Arc<dyn Clock>,
}

impl<B: BlobStore> Linked<B> {
    /// `inner`, with links that begin with `base_url` (`http://127.0.0.1:8080`) and are signed with `key`. Whoever
    /// answers them needs the same key; the base is not signed, so that a proxy may stand in between.
    #[must_use]
    pub fn new(inner: B, base_url: &str, key: LinkKey, clock: Arc<dyn Clock>) -> Self {
        Self { inner, base_url: base_url.trim_end_matches('/').into(), key, clock }
    }
}

impl<B: BlobStore> fmt::Display for Linked<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<B: BlobStore> BlobStore for Linked<B> {
    fn capabilities(&self) -> BlobCapabilities {
        self.inner.capabilities().with_links()
    }

    async fn put(
        &self,
        key: &BlobKey,
        body: ByteStream,
        options: PutOptions,
    ) -> Result<Stored, Error> {
        self.inner.put(key, body, options).await
    }

    async fn get(&self, key: &BlobKey, range: Option<ByteRange>) -> Result<Blob, Error> {
        self.inner.get(key, range).await
    }

    async fn stat(&self, key: &BlobKey) -> Result<BlobStat, Error> {
        self.inner.stat(key).await
    }

    async fn list(&self, job: &JobId) -> Result<Vec<BlobKey>, Error> {
        self.inner.list(job).await
    }

    async fn jobs(&self, after: Option<&JobId>, limit: usize) -> Result<Vec<JobId>, Error> {
        self.inner.jobs(after, limit).await
    }

    async fn delete(&self, key: &BlobKey) -> Result<u64, Error> {
        self.inner.delete(key).await
    }

    async fn set_tier(&self, key: &BlobKey, tier: Tier) -> Result<(), Error> {
        self.inner.set_tier(key, tier).await
    }

    async fn restore(&self, key: &BlobKey, keep_for: Duration) -> Result<Access, Error> {
        self.inner.restore(key, keep_for).await
    }

    async fn link(&self, key: &BlobKey, options: &LinkOptions) -> Result<Link, Error> {
        let grant = LinkGrant::new(key, options, self.clock.now())?;
        let url = format!("{}{}", self.base_url, self.key.sign(&grant));
        let LinkGrant { method, expires_at, .. } = grant;
        Ok(Link { method, url, headers: Vec::new(), expires_at })
    }

    async fn sync(&self) -> Result<(), Error> {
        self.inner.sync().await
    }

    async fn sweep(&self, before: Timestamp) -> Result<u64, Error> {
        self.inner.sweep(before).await
    }
}
