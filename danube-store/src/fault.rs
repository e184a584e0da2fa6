//! What SQLite reports, told as one of this crate's errors.

use std::path::Path;
use std::time::Duration;

use danube_core::BoxError;
use rusqlite::ErrorCode;

use crate::Error;

/// Why the work inside a transaction failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// SQLite refused, or a row holds what cannot be read.
    Sql(rusqlite::Error),
    /// A rule refused; nothing is wrong with the database.
    Known(Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Known(error)
    }
}

impl Fault {
    pub(crate) fn explain(self, path: &Path, waited: Duration, operation: &'static str) -> Error {
        match self {
            Self::Known(error) => error,
            Self::Sql(error) => {
                let kind = Kind::of(&error);
                kind.explain(path, waited, operation, error.into())
            }
        }
    }
}

/// What a caller can do about an error of SQLite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Busy,
    Full,
    Unwritable,
    Corrupt,
    Other,
}

impl Kind {
    pub(crate) fn of(error: &rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Busy,
                ErrorCode::DiskFull => Self::Full,
                ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied => {
                    Self::Unwritable
                }
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Corrupt,
                _ => Self::Other,
            },
            // A row that holds something else than was ever written.
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..) => Self::Corrupt,
            _ => Self::Other,
        }
    }

    pub(crate) fn explain(
        self,
        path: &Path,
        waited: Duration,
        operation: &'static str,
        source: BoxError,
    ) -> Error {
        let path = path.to_owned();
        match self {
            Self::Busy => Error::Busy { path, waited },
            Self::Full => Error::Full { path, source },
            Self::Unwritable => Error::Unwritable { path, source },
            Self::Corrupt => Error::Corrupt { path, source },
            Self::Other => Error::Backend { path, operation, source },
        }
    }
}
