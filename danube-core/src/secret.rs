//! Bytes that must not be seen.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A secret value. It cannot be printed: there is no `Debug`, no `Display` and no `Serialize`, so a
/// struct that holds one cannot derive them by accident. It is zeroised on drop, and compares in
/// constant time (for values of one length).
#[derive(Clone)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes the bytes over; what `bytes` was copied from is the caller's to clear.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves. Search for this word to find every place that looks.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// What stands for it in the hand-written `Debug` of a struct that holds it.
    #[must_use]
    pub fn hidden(&self) -> impl fmt::Debug + use<> {
        Hidden
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for SecretBytes {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes().to_vec())
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl PartialEq for SecretBytes {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SecretBytes {}

struct Hidden;

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_a_secret_tells_nothing_of_it() {
        let secret = SecretBytes::from("hunter2-hunter2");
        assert_eq!(format!("{:?}", secret.hidden()), "<hidden>");
        assert!(secret == SecretBytes::from("hunter2-hunter2"));
        assert!(secret != SecretBytes::from("hunter2-hunter3"));
        assert!(secret != SecretBytes::from("hunter2"));
    }
}
