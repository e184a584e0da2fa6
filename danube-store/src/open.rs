//! Finding, making and checking the files of a database, and connections to it.
//!
//! The database file is never opened here but by SQLite: closing any other descriptor of it would drop
//! the POSIX locks that SQLite holds on it in this process. It is looked at by name only.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use danube_core::files::create_private_dir;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::fault::Kind;
use crate::schema::{self, Migrated};
use crate::{Error, StoreOptions};

// Versions from 3.7.0 up to this one could corrupt a database when two connections checkpointed while a
// third committed.
const OLDEST_SOUND_SQLITE: i32 = 3_051_003;

// All statements of the crate fit, so each is compiled once per connection.
const STATEMENT_CACHE: usize = 64;

// Steadily the log has 4 MiB. What a long reader made it grow to is given back to the disk.
const KEPT_WAL_BYTES: i64 = 16 << 20;

/// A database that was opened: where it lies, and which files it consists of.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    wal: PathBuf,
    database_file: FileId,
    wal_file: FileId,
}

type FileId = (u64, u64);

/// A writer's connection to a database that has the schema known here.
pub(crate) fn open(
    path: &Path,
    options: &StoreOptions,
) -> Result<(Place, Connection, Migrated), Error> {
    if rusqlite::version_number() < OLDEST_SOUND_SQLITE {
        return Err(Error::OldSqlite { found: rusqlite::version().to_owned() });
    }
    let wal = beside(path, "-wal");
    make_file(path, &wal)?;

    let explain = |operation: &'static str| {
        move |error: rusqlite::Error| {
            let kind = Kind::of(&error);
            kind.explain(path, options.busy_timeout, operation, error.into())
        }
    };
    let mut connection = connect(path, options).map_err(explain("open the database"))?;
    if connection.is_readonly("main").map_err(explain("open the database"))? {
        let source = io::Error::from(io::ErrorKind::PermissionDenied).into();
        return Err(Error::Unwritable { path: path.to_owned(), source });
    }
    // Until it is known to be ours, nothing is written to it, not even what its log holds. (An empty
    // log is tidied away as ever.)
    let keep_wal = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection.set_db_config(keep_wal, holds_bytes(&wal)).map_err(explain("open the database"))?;
    schema::inspect(&connection, path, options)?;
    connection.set_db_config(keep_wal, false).map_err(explain("open the database"))?;

    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
        .map_err(explain("turn on write-ahead logging"))?;
    if mode != "wal" {
        return Err(Error::NoWal { path: path.to_owned(), mode });
    }
    let migrated = schema::upgrade(&mut connection, path, options)?;

    let id_of =
        |file: &Path| file_id(file).ok_or_else(|| Error::Replaced { path: file.to_owned() });
    let place =
        Place { database_file: id_of(path)?, wal_file: id_of(&wal)?, path: path.to_owned(), wal };
    Ok((place, connection, migrated))
}

/// One more connection to a database that [`open`] opened, to read with.
pub(crate) fn open_reader(place: &Place, options: &StoreOptions) -> rusqlite::Result<Connection> {
    let connection = connect(&place.path, options)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

impl Place {
    /// Whether the names still lead to the files that are open. SQLite would go on with files that
    /// were unlinked, and what it acknowledged would be gone with the process.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (file, id) in [(&self.path, self.database_file), (&self.wal, self.wal_file)] {
            // The log exists as long as any connection is open.
            if file_id(file) != Some(id) {
                return Err(Error::Replaced { path: file.clone() });
            }
        }
        Ok(())
    }

    /// How long the write-ahead log is.
    pub(crate) fn wal_bytes(&self) -> u64 {
        fs::metadata(&self.wal).map_or(0, |meta| meta.len())
    }
}

fn connect(path: &Path, options: &StoreOptions) -> rusqlite::Result<Connection> {
    // Without CREATE: the file is made beforehand, private from its first moment. Without URI: a path
    // is a path.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(options.busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    // A file that somebody prepared must not run anything of its own through views or triggers.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
    // FULL: what is acknowledged survives the machine's death. A job has a few transactions a minute.
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update_and_check(None, "journal_size_limit", KEPT_WAL_BYTES, |_| Ok(()))?;
    Ok(connection)
}

/// Makes the directory (0700) and an empty file (0600) where there is none.
fn make_file(path: &Path, wal: &Path) -> Result<(), Error> {
    let unwritable =
        |source: io::Error| Error::Unwritable { path: path.to_owned(), source: source.into() };
    if let Some(directory) = path.parent() {
        create_private_dir(directory).map_err(unwritable)?;
    }
    let found = match fs::symlink_metadata(path) {
        Ok(meta) => Some(meta),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(unwritable(error)),
    };
    // SQLite deletes the log of an empty database as a leftover. It may be all that is left.
    let is_empty = found.as_ref().is_none_or(|meta| meta.is_file() && meta.len() == 0);
    // Between the looks another process may have made the database: so look at it once more.
    if is_empty && holds_bytes(wal) && !holds_bytes(path) {
        return Err(Error::OrphanedWal { path: path.to_owned(), wal: wal.to_owned() });
    }
    let Some(meta) = found else {
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        return match created {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(unwritable(error)),
            _ => Ok(()),
        };
    };
    if !meta.is_file() {
        return Err(unwritable(io::Error::other("it is not a regular file")));
    }
    if meta.mode() & 0o077 != 0 {
        // A restored backup has whatever the umask left. The -wal and -shm files follow its mode.
        match fs::set_permissions(path, fs::Permissions::from_mode(0o600)) {
            Ok(()) => {
                tracing::warn!(path = %path.display(), "others could read the database: its mode is 0600 now")
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "others can read the database")
            }
        }
    }
    Ok(())
}

fn holds_bytes(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.len() > 0)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn file_id(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}
