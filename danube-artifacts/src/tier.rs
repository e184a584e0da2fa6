//! What keeping a blob costs, and how soon it can be read.

use std::fmt;
use std::str::FromStr;
#[cfg(feature = "store")]
use std::time::Duration;

use danube_core::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Error;

/// The longest a restored copy may be asked for.
#[cfg(feature = "store")]
const MAX_RESTORE_DAYS: u64 = 366;
#[cfg(feature = "store")]
const DAY_SECS: u64 = 24 * 60 * 60;

/// Where a backend with tiers keeps a blob.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Read often: S3 Standard. Where every blob begins.
    #[default]
    Hot,
    /// Read seldom, and at once: S3 Standard-IA.
    Warm,
    /// Kept, and read after a restore that takes hours: S3 Glacier Flexible Retrieval.
    Cold,
}

impl Tier {
    /// Every one of them, from the quickest on.
    pub const ALL: &[Self] = &[Self::Hot, Self::Warm, Self::Cold];

    /// Its name, as it is stored and printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Warm => "warm",
            Self::Cold => "cold",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Tier {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .iter()
            .copied()
            .find(|tier| tier.as_str() == name)
            .ok_or_else(|| Error::invalid("tier", name, "is none of hot, warm, cold"))
    }
}

/// Whether a blob can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It can.
    Now,
    /// It can until then: a restored copy of a cold one.
    Until(Timestamp),
    /// Not yet: it is being restored.
    Restoring,
    /// Not before somebody has it restored.
    Archived,
}

impl Access {
    /// Whether it can be read now.
    #[must_use]
    pub const fn is_readable(self) -> bool {
        matches!(self, Self::Now | Self::Until(_))
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => f.pad("readable"),
            Self::Until(end) => write!(f, "readable until {end}"),
            Self::Restoring => f.pad("being restored"),
            Self::Archived => f.pad("archived"),
        }
    }
}

/// What every backend makes of the time that a restored copy is wanted for: whole days, and at least one.
#[cfg(feature = "store")]
pub(crate) fn restore_days(keep_for: Duration) -> Result<u32, Error> {
    let days = keep_for.as_secs().div_ceil(DAY_SECS).max(1);
    u32::try_from(days).ok().filter(|_| days <= MAX_RESTORE_DAYS).ok_or_else(|| {
        Error::invalid("restore for", &format!("{days} days"), "is for more than 366 days")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "store")]
    #[test]
    fn a_restored_copy_is_asked_for_in_whole_days_and_not_for_ever() {
        let days = |secs| restore_days(Duration::from_secs(secs)).ok();
        assert_eq!([0, 1, DAY_SECS, DAY_SECS + 1].map(days), [1, 1, 1, 2].map(Some));
        assert_eq!(
            [366 * DAY_SECS, 366 * DAY_SECS + 1, u64::MAX].map(days),
            [Some(366), None, None]
        );
    }

    #[test]
    fn every_tier_is_read_back_and_equals_its_json() {
        for tier in Tier::ALL {
            assert_eq!(tier.as_str().parse::<Tier>().unwrap(), *tier);
            assert_eq!(serde_json::to_string(tier).unwrap(), format!("\"{tier}\""));
        }
        assert!("glacier".parse::<Tier>().is_err());
    }

    #[test]
    fn what_is_archived_or_being_restored_cannot_be_read() {
        for (access, readable) in [
            (Access::Now, true),
            (Access::Until(Timestamp::UNIX_EPOCH), true),
            (Access::Restoring, false),
            (Access::Archived, false),
        ] {
            assert_eq!(access.is_readable(), readable, "{access}");
        }
    }
}
