//! What a caller can do about an error, whichever crate it came from.

/// The class of an error: every crate's `Error` has a `class()`, and retry code, exit codes and the
/// server's table of HTTP statuses ask for nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// The request is wrong and stays wrong: mend it.
    Invalid,
    /// The thing named does not exist.
    NotFound,
    /// The thing named existed and was deleted.
    Gone,
    /// Somebody else holds or changed the thing: look again.
    Conflict,
    /// The caller may not do this, or a proof did not hold.
    Denied,
    /// A limit is reached: disk, quota, size.
    Exhausted,
    /// This backend cannot do it; its capabilities say so.
    Unsupported,
    /// It may work later: a lost connection, a busy database.
    Unavailable,
    /// A fault of ours or of the machine.
    Internal,
}

impl ErrorClass {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable)
    }

    /// The class of an I/O error, as far as its kind tells.
    #[must_use]
    pub fn of_io(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        match error.kind() {
            K::NotFound => Self::NotFound,
            K::PermissionDenied | K::ReadOnlyFilesystem => Self::Denied,
            K::StorageFull | K::QuotaExceeded | K::FileTooLarge => Self::Exhausted,
            K::AlreadyExists => Self::Conflict,
            K::InvalidInput | K::InvalidFilename => Self::Invalid,
            K::Interrupted | K::TimedOut | K::WouldBlock => Self::Unavailable,
            _ => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    #[test]
    fn a_full_disk_is_exhausted_and_only_what_may_pass_is_tried_again() {
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge] {
            assert_eq!(ErrorClass::of_io(&Error::from(kind)), ErrorClass::Exhausted);
        }
        assert!(ErrorClass::of_io(&Error::from(ErrorKind::TimedOut)).is_retryable());
        assert!(!ErrorClass::of_io(&Error::from(ErrorKind::PermissionDenied)).is_retryable());
        assert_eq!(ErrorClass::of_io(&Error::other("?")), ErrorClass::Internal);
    }
}
