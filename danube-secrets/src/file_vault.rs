//! A vault of files: one for each value, for hosts without a database.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use danube_core::files::{Existing, create_private_dir, write_atomic};
use danube_core::{BoxError, ErrorClass};
use sha2::{Digest, Sha256};

use crate::vault::{MAX_OWNER_BYTES, MAX_OWNERS_PER_LIST, MAX_SEALED_BYTES, MAX_SECRETS_PER_OWNER};
use crate::{Error, SealedValue, SecretKey, SecretOwner, SecretVault};

/// A [`SecretVault`] in a directory:
///
/// | file | what it is |
/// |---|---|
/// | `<owner's digest>/owner` | the owner's name; the digest is the SHA-256 of it, in hexadecimal |
/// | `<owner's digest>/<KEY>.sealed` | the sealed value, byte for byte |
/// | `lock` | held (`flock`) by whoever writes |
///
/// Any number of processes of one machine may use one directory; whoever writes waits for the others, and
/// readers wait for nobody. Every write is synced before it is acknowledged. The directory is made when
/// something is first put, private (0700), on a file system that tells upper case from lower.
#[derive(Debug, Clone)]
pub struct FileVault {
    dir: PathBuf,
}

impl FileVault {
    /// The vault in this directory, which need not exist yet.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(Dir) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Error> {
        let dir = Dir(self.dir.clone());
        let vault = self.to_string();
        crate::blocking(move || {
            work(dir).map_err(|fault| match fault {
                Fault::Known(error) => error,
                Fault::Io(source) => {
                    let class = ErrorClass::of_io(&source);
                    // What was asked for is not missing: a part of the vault is.
                    let class =
                        if class == ErrorClass::NotFound { ErrorClass::Internal } else { class };
                    Error::Backend { vault, operation, class, source: source.into() }
                }
                Fault::Damaged(source) => {
                    Error::Backend { vault, operation, class: ErrorClass::Internal, source }
                }
            })
        })
        .await
    }
}

impl fmt::Display for FileVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the vault in {}", self.dir.display())
    }
}

enum Fault {
    Io(io::Error),
    Damaged(BoxError),
    Known(Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Known(error)
    }
}

/// The directory, on a thread that may block.
struct Dir(PathBuf);

impl Dir {
    /// Makes the directory where there is none and keeps other writers out until the file is dropped.
    fn lock(&self) -> io::Result<File> {
        create_private_dir(&self.0)?;
        let lock =
            File::options().create(true).append(true).mode(0o600).open(self.0.join("lock"))?;
        lock.lock()?;
        Ok(lock)
    }

    fn of(&self, owner: &SecretOwner) -> PathBuf {
        self.0.join(hex::encode(Sha256::digest(owner.as_str())))
    }

    fn file(&self, owner: &SecretOwner, key: &SecretKey) -> PathBuf {
        self.of(owner).join(format!("{key}.sealed"))
    }
}

/// The keys that have a value in this directory; none where there is no directory.
fn keys_in(dir: &Path) -> Result<Vec<SecretKey>, Fault> {
    let mut keys = Vec::new();
    for entry in entries(dir)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".sealed")) else {
            continue;
        };
        // What was put here by hand under a name that is none cannot be asked for.
        keys.extend(name.parse::<SecretKey>().ok());
    }
    keys.sort();
    Ok(keys)
}

fn entries(dir: &Path) -> io::Result<Box<dyn Iterator<Item = io::Result<fs::DirEntry>>>> {
    match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Box::new(std::iter::empty())),
        other => Ok(Box::new(other?)),
    }
}

/// Removes what killed writers left in the directory of an owner. Under the lock nobody else is writing.
fn sweep(of_owner: &Path) -> io::Result<()> {
    for entry in entries(of_owner)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".tmp-") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// What a file holds, up to `limit` bytes; `None` where there is no file.
fn read(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, Fault> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        let what = format!("{} is longer than {limit} bytes", path.display());
        return Err(Fault::Damaged(what.into()));
    }
    Ok(Some(bytes))
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_atomic(path, bytes, 0o600, Existing::Replace)
}

#[async_trait]
impl SecretVault for FileVault {
    async fn put(
        &self,
        owner: &SecretOwner,
        key: &SecretKey,
        value: &SealedValue,
    ) -> Result<(), Error> {
        value.check_len()?;
        let (owner, key, value) = (owner.clone(), key.clone(), value.clone());
        self.run("keep a secret", move |dir| {
            let _lock = dir.lock()?;
            let path = dir.file(&owner, &key);
            if !path.try_exists()? {
                let of_owner = dir.of(&owner);
                if keys_in(&of_owner)?.len() >= MAX_SECRETS_PER_OWNER {
                    return Err(Error::TooManySecrets { owner }.into());
                }
                create_private_dir(&of_owner)?;
                sweep(&of_owner)?;
                // Before the first value: a value whose owner nobody can tell would never be listed.
                let named = of_owner.join("owner");
                if !named.try_exists()? {
                    write(&named, owner.as_str().as_bytes())?;
                }
                danube_core::files::sync_dir(&dir.0)?;
            }
            Ok(write(&path, value.as_bytes())?)
        })
        .await
    }

    async fn get(&self, owner: &SecretOwner, key: &SecretKey) -> Result<SealedValue, Error> {
        let (owner, key) = (owner.clone(), key.clone());
        self.run("read a secret", move |dir| {
            let found = read(&dir.file(&owner, &key), MAX_SEALED_BYTES)?;
            found.map(SealedValue::from_bytes).ok_or(Error::NotFound { owner, key }.into())
        })
        .await
    }

    async fn delete(&self, owner: &SecretOwner, key: &SecretKey) -> Result<bool, Error> {
        let (owner, key) = (owner.clone(), key.clone());
        self.run("delete a secret", move |dir| {
            let of_owner = dir.of(&owner);
            if !of_owner.try_exists()? {
                return Ok(false);
            }
            let _lock = dir.lock()?;
            match fs::remove_file(dir.file(&owner, &key)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
                other => other?,
            }
            if keys_in(&of_owner)?.is_empty() {
                // What does not go away is an owner without secrets, which nobody sees.
                let _ = sweep(&of_owner);
                let _ = fs::remove_file(of_owner.join("owner"));
                let _ = fs::remove_dir(&of_owner);
                danube_core::files::sync_dir(&dir.0)?;
            } else {
                danube_core::files::sync_dir(&of_owner)?;
            }
            Ok(true)
        })
        .await
    }

    async fn list(&self, owner: &SecretOwner) -> Result<Vec<SecretKey>, Error> {
        let owner = owner.clone();
        self.run("list secrets", move |dir| keys_in(&dir.of(&owner))).await
    }

    async fn replace_if(
        &self,
        owner: &SecretOwner,
        key: &SecretKey,
        current: &SealedValue,
        new: &SealedValue,
    ) -> Result<bool, Error> {
        new.check_len()?;
        let (owner, key) = (owner.clone(), key.clone());
        let (current, new) = (current.clone(), new.clone());
        self.run("replace a secret", move |dir| {
            let path = dir.file(&owner, &key);
            if !path.try_exists()? {
                return Ok(false);
            }
            let _lock = dir.lock()?;
            if read(&path, MAX_SEALED_BYTES)?.as_deref() != Some(current.as_bytes()) {
                return Ok(false);
            }
            write(&path, new.as_bytes())?;
            Ok(true)
        })
        .await
    }

    async fn owners(&self, after: Option<&SecretOwner>) -> Result<Vec<SecretOwner>, Error> {
        let after = after.cloned();
        self.run("list owners", move |dir| {
            let mut owners = Vec::new();
            for entry in entries(&dir.0)? {
                let path = entry?.path();
                if !path.is_dir() || keys_in(&path)?.is_empty() {
                    continue;
                }
                let named = path.join("owner");
                let name = match read(&named, MAX_OWNER_BYTES)? {
                    None if keys_in(&path)?.is_empty() => continue,
                    // Its last secret was deleted since it was listed, and it got a new one.
                    None => read(&named, MAX_OWNER_BYTES)?,
                    name => name,
                };
                let owner = name.and_then(|name| String::from_utf8(name).ok()?.parse().ok());
                let owner: SecretOwner =
                    owner.filter(|owner| dir.of(owner) == path).ok_or_else(|| {
                        let what = format!(
                            "{} does not name the owner of what is beside it",
                            named.display()
                        );
                        Fault::Damaged(what.into())
                    })?;
                if after.as_ref().is_none_or(|after| owner > *after) {
                    owners.push(owner);
                }
            }
            owners.sort();
            owners.truncate(MAX_OWNERS_PER_LIST);
            Ok(owners)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn temporary() -> (FileVault, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        (FileVault::new(dir.path().join("vault")), dir)
    }

    crate::secret_vault_conformance!(file_vault, temporary());

    fn names() -> (SecretOwner, SecretKey, SealedValue) {
        let value = SealedValue::from_bytes(b"sealed".to_vec());
        ("pipeline/nightly".parse().unwrap(), "TOKEN".parse().unwrap(), value)
    }

    #[tokio::test]
    async fn a_second_vault_on_the_directory_sees_what_the_first_one_kept_and_all_of_it_is_private()
    {
        let (vault, _dir) = temporary();
        let (owner, key, value) = names();
        // Nobody who only looks makes anything.
        assert!(vault.list(&owner).await.unwrap().is_empty());
        assert!(!vault.delete(&owner, &key).await.unwrap());
        assert!(!vault.replace_if(&owner, &key, &value, &value).await.unwrap());
        assert!(!vault.dir.exists());
        vault.put(&owner, &key, &value).await.unwrap();
        assert!(FileVault::new(&vault.dir).get(&owner, &key).await.unwrap() == value);
        let of_owner = Dir(vault.dir.clone()).of(&owner);
        for (path, mode) in
            [(&vault.dir, 0o700), (&of_owner, 0o700), (&of_owner.join("owner"), 0o600)]
        {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, mode, "{path:?}");
        }
        assert!(vault.delete(&owner, &key).await.unwrap());
        assert!(!of_owner.exists());
    }

    #[tokio::test]
    async fn what_a_killed_writer_left_is_nobodys_secret() {
        let (vault, _dir) = temporary();
        let (owner, key, value) = names();
        let of_owner = Dir(vault.dir.clone()).of(&owner);
        // Killed after each of the steps of the first `put`.
        create_private_dir(&of_owner).unwrap();
        for step in ["", "owner", ".tmp-0123456789abcdef"] {
            if !step.is_empty() {
                fs::write(of_owner.join(step), owner.as_str()).unwrap();
            }
            assert!(vault.owners(None).await.unwrap().is_empty(), "{step}");
            assert!(vault.list(&owner).await.unwrap().is_empty(), "{step}");
        }
        vault.put(&owner, &key, &value).await.unwrap();
        assert_eq!(vault.owners(None).await.unwrap(), std::slice::from_ref(&owner));
        assert_eq!(vault.list(&owner).await.unwrap(), std::slice::from_ref(&key));
        // And goes: with the next new secret, and with the last one.
        let left = of_owner.join(".tmp-0123456789abcdef");
        assert!(!left.exists());
        fs::write(&left, "half").unwrap();
        assert!(vault.delete(&owner, &key).await.unwrap());
        assert!(!of_owner.exists());
    }

    #[tokio::test]
    async fn a_damaged_vault_is_told_and_not_taken_for_an_empty_one() {
        let (vault, _dir) = temporary();
        let (owner, key, value) = names();
        vault.put(&owner, &key, &value).await.unwrap();
        let named = Dir(vault.dir.clone()).of(&owner).join("owner");
        for damage in [Some("pipeline/other"), Some(""), None] {
            match damage {
                Some(text) => fs::write(&named, text).unwrap(),
                None => fs::remove_file(&named).unwrap(),
            }
            let error = vault.owners(None).await.unwrap_err();
            assert_eq!(error.class(), ErrorClass::Internal);
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains(named.to_str().unwrap()), "{source}");
        }
        let file = Dir(vault.dir.clone()).file(&owner, &key);
        fs::write(&file, vec![0; MAX_SEALED_BYTES + 1]).unwrap();
        assert!(matches!(vault.get(&owner, &key).await, Err(Error::Backend { .. })));
    }
}
