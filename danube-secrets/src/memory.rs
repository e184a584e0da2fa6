//! A vault in memory: for tests, and for tools that keep nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::vault::{MAX_OWNERS_PER_LIST, MAX_SECRETS_PER_OWNER};
use crate::{Error, SealedValue, SecretKey, SecretOwner, SecretVault};

type Values = BTreeMap<SecretOwner, BTreeMap<SecretKey, SealedValue>>;

/// A [`SecretVault`] that ends with the process. Clones share what is kept.
#[derive(Clone, Default)]
pub struct MemoryVault(Arc<Mutex<Values>>);

impl MemoryVault {
    /// An empty vault.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn values(&self) -> MutexGuard<'_, Values> {
        // Nothing panics between two changes of one call: what a poisoned lock guards is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryVault").field("owners", &self.values().len()).finish()
    }
}

impl fmt::Display for MemoryVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the vault in memory")
    }
}

#[async_trait]
impl SecretVault for MemoryVault {
    async fn put(
        &self,
        owner: &SecretOwner,
        key: &SecretKey,
        value: &SealedValue,
    ) -> Result<(), Error> {
        value.check_len()?;
        let mut values = self.values();
        let of_owner = values.entry(owner.clone()).or_default();
        if of_owner.len() >= MAX_SECRETS_PER_OWNER && !of_owner.contains_key(key) {
            return Err(Error::TooManySecrets { owner: owner.clone() });
        }
        of_owner.insert(key.clone(), value.clone());
        Ok(())
    }

    async fn get(&self, owner: &SecretOwner, key: &SecretKey) -> Result<SealedValue, Error> {
        let values = self.values();
        let found = values.get(owner).and_then(|of_owner| of_owner.get(key));
        found.cloned().ok_or_else(|| Error::NotFound { owner: owner.clone(), key: key.clone() })
    }

    async fn delete(&self, owner: &SecretOwner, key: &SecretKey) -> Result<bool, Error> {
        let mut values = self.values();
        let Some(of_owner) = values.get_mut(owner) else { return Ok(false) };
        let was_there = of_owner.remove(key).is_some();
        if of_owner.is_empty() {
            values.remove(owner);
        }
        Ok(was_there)
    }

    async fn list(&self, owner: &SecretOwner) -> Result<Vec<SecretKey>, Error> {
        let values = self.values();
        Ok(values.get(owner).map(|of_owner| of_owner.keys().cloned().collect()).unwrap_or_default())
    }

    async fn replace_if(
        &self,
        owner: &SecretOwner,
        key: &SecretKey,
        current: &SealedValue,
        new: &SealedValue,
    ) -> Result<bool, Error> {
        new.check_len()?;
        let mut values = self.values();
        match values.get_mut(owner).and_then(|of_owner| of_owner.get_mut(key)) {
            Some(value) if value == current => {
                *value = new.clone();
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn owners(&self, after: Option<&SecretOwner>) -> Result<Vec<SecretOwner>, Error> {
        let values = self.values();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let owners = values.range::<SecretOwner, _>((from, Bound::Unbounded));
        Ok(owners.map(|(owner, _)| owner.clone()).take(MAX_OWNERS_PER_LIST).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::secret_vault_conformance!(memory_vault, (MemoryVault::new(), ()));

    #[test]
    fn printing_a_vault_tells_no_names_and_no_values() {
        let vault = MemoryVault::new();
        assert_eq!(format!("{vault:?} {vault}"), "MemoryVault { owners: 0 } the vault in memory");
    }
}
