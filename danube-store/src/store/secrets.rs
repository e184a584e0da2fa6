//! Sealed values as rows.

use async_trait::async_trait;
use danube_secrets::{
    Error, MAX_OWNERS_PER_LIST, MAX_SECRETS_PER_OWNER, SealedValue, SecretKey, SecretOwner,
    SecretVault,
};
use rusqlite::{OptionalExtension, params};

use super::Store;
use super::jobs::parsed;
use crate::sql;

#[async_trait]
impl SecretVault for Store {
    async fn put(
        &self,
        owner: &SecretOwner,
        key: &SecretKey,
        value: &SealedValue,
    ) -> Result<(), Error> {
        value.check_len()?;
        let (of, named, sealed) = (owner.clone(), key.clone(), value.clone());
        let kept = self.write("keep a secret", move |transaction| {
            let row = params![of.as_str(), named.as_str(), sealed.as_bytes()];
            if transaction.prepare_cached(sql::REPLACE_SECRET)?.execute(row)? > 0 {
                return Ok(true);
            }
            let mut count = transaction.prepare_cached(sql::COUNT_SECRETS)?;
            let count: i64 = count.query_row([of.as_str()], |row| row.get(0))?;
            if count >= MAX_SECRETS_PER_OWNER as i64 {
                return Ok(false);
            }
            transaction.prepare_cached(sql::INSERT_SECRET)?.execute(row)?;
            Ok(true)
        });
        match kept.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::TooManySecrets { owner: owner.clone() }),
            Err(error) => Err(self.vault_error("keep a secret", error)),
        }
    }

    async fn get(&self, owner: &SecretOwner, key: &SecretKey) -> Result<SealedValue, Error> {
        let (of, named) = (owner.clone(), key.clone());
        let found = self.read("read a secret", move |transaction| {
            let mut get = transaction.prepare_cached(sql::GET_SECRET)?;
            let found = get.query_row([of.as_str(), named.as_str()], |row| row.get(0));
            Ok(found.optional()?)
        });
        let found = found.await.map_err(|error| self.vault_error("read a secret", error))?;
        found
            .map(SealedValue::from_bytes)
            .ok_or_else(|| Error::NotFound { owner: owner.clone(), key: key.clone() })
    }

    async fn delete(&self, owner: &SecretOwner, key: &SecretKey) -> Result<bool, Error> {
        let (of, named) = (owner.clone(), key.clone());
        self.write("delete a secret", move |transaction| {
            let mut delete = transaction.prepare_cached(sql::DELETE_SECRET)?;
            Ok(delete.execute([of.as_str(), named.as_str()])? > 0)
        })
        .await
        .map_err(|error| self.vault_error("delete a secret", error))
    }

    async fn list(&self, owner: &SecretOwner) -> Result<Vec<SecretKey>, Error> {
        let of = owner.clone();
        self.read("list secrets", move |transaction| {
            let mut list = transaction.prepare_cached(sql::LIST_SECRETS)?;
            let keys = list.query_map([of.as_str()], |row| parsed(row, 0))?;
            Ok(keys.collect::<Result<_, _>>()?)
        })
        .await
        .map_err(|error| self.vault_error("list secrets", error))
    }

    async fn replace_if(
        &self,
        owner: &SecretOwner,
        key: &SecretKey,
        current: &SealedValue,
        new: &SealedValue,
    ) -> Result<bool, Error> {
        new.check_len()?;
        let (of, named) = (owner.clone(), key.clone());
        let (current, new) = (current.clone(), new.clone());
        self.write("replace a secret", move |transaction| {
            let row = params![of.as_str(), named.as_str(), current.as_bytes(), new.as_bytes()];
            Ok(transaction.prepare_cached(sql::REPLACE_SECRET_IF)?.execute(row)? > 0)
        })
        .await
        .map_err(|error| self.vault_error("replace a secret", error))
    }

    async fn owners(&self, after: Option<&SecretOwner>) -> Result<Vec<SecretOwner>, Error> {
        // No owner's name is empty.
        let after = after.map_or("", SecretOwner::as_str).to_owned();
        self.read("list the owners of secrets", move |transaction| {
            let mut list = transaction.prepare_cached(sql::SECRET_OWNERS)?;
            let owners =
                list.query_map(params![after, MAX_OWNERS_PER_LIST as i64], |row| parsed(row, 0))?;
            Ok(owners.collect::<Result<_, _>>()?)
        })
        .await
        .map_err(|error| self.vault_error("list the owners of secrets", error))
    }
}

impl Store {
    fn vault_error(&self, operation: &'static str, error: crate::Error) -> Error {
        Error::Backend {
            vault: self.to_string(),
            operation,
            class: error.class(),
            source: error.into(),
        }
    }
}
