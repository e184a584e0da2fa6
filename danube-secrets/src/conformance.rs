//! The laws of [`SecretVault`] as tests, for anybody's backend.
//!
//! Stamp them with [`secret_vault_conformance!`](crate::secret_vault_conformance). Each law expects a
//! vault that holds nothing.
#![expect(clippy::unwrap_used, reason = "laws are tests, stamped in other crates")]

use futures_util::future::{join, join_all};

use crate::{
    Error, MAX_OWNERS_PER_LIST, MAX_SEALED_BYTES, MAX_SECRETS_PER_OWNER, SealedValue, SecretKey,
    SecretOwner, SecretVault,
};

/// Makes a module with one test for each law of [`SecretVault`], and each of them a second time through
/// `Arc<dyn SecretVault>`.
///
/// The expression makes a pair: an empty vault, and whatever must live as long as it (a temporary
/// directory). It may use `.await`. The crate that calls this needs `tokio` with `macros` and `rt`
/// among its dev-dependencies.
///
/// ```
/// # use danube_secrets::MemoryVault;
/// danube_secrets::secret_vault_conformance!(memory, (MemoryVault::new(), ()));
/// ```
#[macro_export]
macro_rules! secret_vault_conformance {
    ($module:ident, $fixture:expr) => {
        $crate::secret_vault_conformance!(@laws $module, $fixture,
            a_value_comes_back_byte_for_byte,
            a_missing_value_is_not_found,
            put_replaces,
            delete_says_whether_there_was_one_and_is_idempotent,
            list_is_sorted_and_complete,
            owners_do_not_see_each_other,
            names_are_compared_byte_for_byte,
            replace_if_changes_only_what_is_current,
            one_of_many_replacers_wins,
            readers_see_whole_values,
            an_owner_has_a_bounded_number_of_secrets,
            a_value_that_is_too_long_is_refused_and_changes_nothing,
            owners_are_sorted_complete_and_only_those_with_secrets,
            owners_are_listed_in_pages,
        );
    };
    (@laws $module:ident, $fixture:expr, $($law:ident,)+) => {
        mod $module {
            use super::*;

            $(#[tokio::test]
            async fn $law() {
                let (vault, _guard) = $fixture;
                $crate::conformance::$law(&vault).await;
            })+

            mod as_dyn {
                use super::*;

                $(#[tokio::test]
                async fn $law() {
                    let (vault, _guard) = $fixture;
                    let vault: std::sync::Arc<dyn $crate::SecretVault> = std::sync::Arc::new(vault);
                    $crate::conformance::$law(&vault).await;
                })+
            }
        }
    };
}

fn owner(name: &str) -> SecretOwner {
    name.parse().expect("a valid owner")
}

fn key(name: &str) -> SecretKey {
    name.parse().expect("a valid key")
}

fn value(bytes: &[u8]) -> SealedValue {
    SealedValue::from_bytes(bytes.to_vec())
}

async fn expect(vault: &impl SecretVault, of: &SecretOwner, name: &SecretKey, is: &SealedValue) {
    assert!(vault.get(of, name).await.expect("the value is there") == *is);
}

async fn expect_none(vault: &impl SecretVault, of: &SecretOwner, name: &SecretKey) {
    match vault.get(of, name).await {
        Err(Error::NotFound { owner, key }) => assert_eq!((&owner, &key), (of, name)),
        other => panic!("expected NotFound for {name} of {of}, got {other:?}"),
    }
}

/// Any bytes, none and the longest included, come back as they were put.
pub async fn a_value_comes_back_byte_for_byte(vault: &impl SecretVault) {
    let longest: Vec<u8> = (0..MAX_SEALED_BYTES).map(|i| (i % 251) as u8).collect();
    let every_byte: Vec<u8> = (0..=255).collect();
    for bytes in
        [&b""[..], b"\0", b"it's 100% \"text\"; --\n", b"\xff\xfe\x80", &every_byte, &longest]
    {
        vault.put(&owner("o"), &key("K"), &value(bytes)).await.unwrap();
        assert!(vault.get(&owner("o"), &key("K")).await.unwrap().as_bytes() == bytes);
    }
}

/// `get` of a name that was never put, or was deleted, is `NotFound` and names both.
pub async fn a_missing_value_is_not_found(vault: &impl SecretVault) {
    expect_none(vault, &owner("nobody"), &key("K")).await;
    vault.put(&owner("o"), &key("K"), &value(b"1")).await.unwrap();
    expect_none(vault, &owner("o"), &key("OTHER")).await;
    vault.delete(&owner("o"), &key("K")).await.unwrap();
    expect_none(vault, &owner("o"), &key("K")).await;
}

/// The last `put` is what `get` gives, and there is still one name.
pub async fn put_replaces(vault: &impl SecretVault) {
    for bytes in [&b"first"[..], b"second, longer", b"3"] {
        vault.put(&owner("o"), &key("K"), &value(bytes)).await.unwrap();
    }
    expect(vault, &owner("o"), &key("K"), &value(b"3")).await;
    assert_eq!(vault.list(&owner("o")).await.unwrap(), [key("K")]);
}

/// `delete` removes one name of one owner, and a second call changes nothing.
pub async fn delete_says_whether_there_was_one_and_is_idempotent(vault: &impl SecretVault) {
    let (o, k, other) = (owner("o"), key("K"), key("OTHER"));
    assert!(!vault.delete(&o, &k).await.unwrap());
    vault.put(&o, &k, &value(b"1")).await.unwrap();
    vault.put(&o, &other, &value(b"2")).await.unwrap();
    assert!(vault.delete(&o, &k).await.unwrap());
    assert!(!vault.delete(&o, &k).await.unwrap());
    expect(vault, &o, &other, &value(b"2")).await;
    vault.put(&o, &k, &value(b"3")).await.unwrap();
    expect(vault, &o, &k, &value(b"3")).await;
}

/// `list` names every key once, in the order of its bytes (`Z` before `_` before `a`).
pub async fn list_is_sorted_and_complete(vault: &impl SecretVault) {
    let o = owner("o");
    assert!(vault.list(&o).await.unwrap().is_empty());
    for name in ["a", "Z", "_", "B2", "B10", "B", "b"] {
        vault.put(&o, &key(name), &value(name.as_bytes())).await.unwrap();
    }
    let names: Vec<_> = vault.list(&o).await.unwrap().iter().map(SecretKey::to_string).collect();
    assert_eq!(names, ["B", "B10", "B2", "Z", "_", "a", "b"]);
}

/// The same name of two owners is two secrets, whatever the owners are called.
pub async fn owners_do_not_see_each_other(vault: &impl SecretVault) {
    let owners = [owner("a"), owner("a/b"), owner("A"), owner("a%"), owner("a_"), owner("ä")];
    for o in &owners {
        vault.put(o, &key("K"), &value(o.as_str().as_bytes())).await.unwrap();
    }
    for o in &owners {
        expect(vault, o, &key("K"), &value(o.as_str().as_bytes())).await;
    }
    assert!(vault.delete(&owners[0], &key("K")).await.unwrap());
    assert!(vault.list(&owners[0]).await.unwrap().is_empty());
    for o in &owners[1..] {
        assert_eq!(vault.list(o).await.unwrap(), [key("K")]);
    }
}

/// Upper and lower case are different names.
pub async fn names_are_compared_byte_for_byte(vault: &impl SecretVault) {
    let o = owner("o");
    vault.put(&o, &key("Token"), &value(b"1")).await.unwrap();
    expect_none(vault, &o, &key("TOKEN")).await;
    assert!(!vault.delete(&o, &key("token")).await.unwrap());
    vault.put(&o, &key("TOKEN"), &value(b"2")).await.unwrap();
    expect(vault, &o, &key("Token"), &value(b"1")).await;
}

/// `replace_if` replaces exactly `current`, and never creates.
pub async fn replace_if_changes_only_what_is_current(vault: &impl SecretVault) {
    let (o, k) = (owner("o"), key("K"));
    assert!(!vault.replace_if(&o, &k, &value(b""), &value(b"new")).await.unwrap());
    expect_none(vault, &o, &k).await;
    vault.put(&o, &k, &value(b"old")).await.unwrap();
    for not_current in [&b""[..], b"ol", b"old\0", b"OLD", b"new"] {
        assert!(!vault.replace_if(&o, &k, &value(not_current), &value(b"new")).await.unwrap());
    }
    assert!(!vault.replace_if(&owner("p"), &k, &value(b"old"), &value(b"new")).await.unwrap());
    assert!(!vault.replace_if(&o, &key("L"), &value(b"old"), &value(b"new")).await.unwrap());
    expect(vault, &o, &k, &value(b"old")).await;
    assert!(vault.replace_if(&o, &k, &value(b"old"), &value(b"new")).await.unwrap());
    expect(vault, &o, &k, &value(b"new")).await;
    assert!(vault.replace_if(&o, &k, &value(b"new"), &value(b"new")).await.unwrap());
    vault.delete(&o, &k).await.unwrap();
    assert!(!vault.replace_if(&o, &k, &value(b"new"), &value(b"old")).await.unwrap());
    assert!(vault.list(&o).await.unwrap().is_empty());
}

/// Of many that replace the same value at once, one is told that it did, and its value stands.
pub async fn one_of_many_replacers_wins(vault: &impl SecretVault) {
    let (o, k) = (owner("o"), key("K"));
    vault.put(&o, &k, &value(b"current")).await.unwrap();
    let (current, o, k) = (&value(b"current"), &o, &k);
    let replacers = (0..16_u8)
        .map(|n| async move { vault.replace_if(o, k, current, &value(&[n])).await.unwrap() });
    let won: Vec<bool> = join_all(replacers).await;
    let winners: Vec<usize> = (0..won.len()).filter(|&n| won[n]).collect();
    assert_eq!(winners.len(), 1, "{winners:?} were told that they replaced the value");
    expect(vault, o, k, &value(&[winners[0] as u8])).await;
}

/// While two values replace each other, a reader sees one or the other, never a mixture and never
/// nothing.
pub async fn readers_see_whole_values(vault: &impl SecretVault) {
    let (o, k) = (owner("o"), key("K"));
    let (long, short) = (value(&[b'l'; 40_000]), value(&[b's'; 300]));
    vault.put(&o, &k, &long).await.unwrap();
    let write = async {
        for _ in 0..10 {
            vault.put(&o, &k, &short).await.unwrap();
            vault.put(&o, &k, &long).await.unwrap();
        }
    };
    let read = async {
        for _ in 0..20 {
            let seen = vault.get(&o, &k).await.unwrap();
            assert!(seen == long || seen == short, "a value of {seen:?} was never put");
        }
    };
    join(write, read).await;
}

/// The name after the last allowed one is refused; replacing and deleting go on.
pub async fn an_owner_has_a_bounded_number_of_secrets(vault: &impl SecretVault) {
    let o = owner("o");
    for n in 0..MAX_SECRETS_PER_OWNER {
        vault.put(&o, &key(&format!("K{n}")), &value(b"1")).await.unwrap();
    }
    match vault.put(&o, &key("ONE_MORE"), &value(b"1")).await {
        Err(Error::TooManySecrets { owner }) => assert_eq!(owner, o),
        other => panic!("expected TooManySecrets, got {other:?}"),
    }
    vault.put(&o, &key("K0"), &value(b"2")).await.unwrap();
    vault.put(&owner("p"), &key("ONE_MORE"), &value(b"1")).await.unwrap();
    assert_eq!(vault.list(&o).await.unwrap().len(), MAX_SECRETS_PER_OWNER);
    assert!(vault.delete(&o, &key("K1")).await.unwrap());
    vault.put(&o, &key("ONE_MORE"), &value(b"1")).await.unwrap();
}

/// One byte more than the longest value is refused by whatever keeps values, and what was there stays.
pub async fn a_value_that_is_too_long_is_refused_and_changes_nothing(vault: &impl SecretVault) {
    let (o, k, too_long) = (owner("o"), key("K"), value(&vec![b'x'; MAX_SEALED_BYTES + 1]));
    assert!(matches!(vault.put(&o, &k, &too_long).await, Err(Error::TooLong)));
    assert!(vault.owners(None).await.unwrap().is_empty());
    vault.put(&o, &k, &value(b"1")).await.unwrap();
    assert!(matches!(vault.put(&o, &k, &too_long).await, Err(Error::TooLong)));
    let replaced = vault.replace_if(&o, &k, &value(b"1"), &too_long).await;
    assert!(matches!(replaced, Err(Error::TooLong)));
    expect(vault, &o, &k, &value(b"1")).await;
}

/// `owners` names each owner once, in the order of its bytes, and none that has no secret any more.
pub async fn owners_are_sorted_complete_and_only_those_with_secrets(vault: &impl SecretVault) {
    assert!(vault.owners(None).await.unwrap().is_empty());
    let longest = "o".repeat(256);
    for name in ["a/b", "b", "A", &longest, "a", "ä", "a b", "a%", "../a"] {
        for k in ["K", "L"] {
            vault.put(&owner(name), &key(k), &value(b"1")).await.unwrap();
        }
    }
    vault.delete(&owner("b"), &key("K")).await.unwrap();
    for k in ["K", "L"] {
        vault.delete(&owner("A"), &key(k)).await.unwrap();
    }
    let all = ["../a", "a", "a b", "a%", "a/b", "b", &longest, "ä"].map(owner);
    assert_eq!(vault.owners(None).await.unwrap(), all);
    assert_eq!(vault.owners(Some(&owner("a/b"))).await.unwrap(), all[5..]);
    // The one before the page need not exist.
    assert_eq!(vault.owners(Some(&owner("a/a"))).await.unwrap(), all[4..]);
    assert!(vault.owners(Some(&owner("ö"))).await.unwrap().is_empty());
    vault.put(&owner("A"), &key("K"), &value(b"2")).await.unwrap();
    assert_eq!(vault.owners(None).await.unwrap().len(), all.len() + 1);
}

/// A page has at most [`MAX_OWNERS_PER_LIST`], and the pages together are everybody, once.
pub async fn owners_are_listed_in_pages(vault: &impl SecretVault) {
    let all: Vec<_> = (0..=MAX_OWNERS_PER_LIST).map(|n| owner(&format!("o{n:05}"))).collect();
    for o in &all {
        vault.put(o, &key("K"), &value(b"1")).await.unwrap();
    }
    let first = vault.owners(None).await.unwrap();
    assert_eq!(first, all[..MAX_OWNERS_PER_LIST]);
    let second = vault.owners(first.last()).await.unwrap();
    assert_eq!(second, all[MAX_OWNERS_PER_LIST..]);
    assert!(vault.owners(second.last()).await.unwrap().is_empty());
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_law_is_stamped() {
        let source = include_str!("conformance.rs");
        let laws = source.lines().filter_map(|line| line.strip_prefix("pub async fn "));
        let names: Vec<_> = laws.filter_map(|law| law.split('(').next()).collect();
        assert!(names.len() > 5);
        for name in names {
            assert!(source.contains(&format!("            {name},\n")), "{name} is not stamped");
        }
    }
}
