//! Reading one secret from a file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use danube_core::SecretBytes;
use zeroize::Zeroizing;

use crate::Error;

/// Bytes of the longest secret: a key file or a certificate chain fits with room to spare.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// Reads a secret from a file, a pipe (`<(…)` of a shell) or whatever else can be read to an end. One
/// line feed at the end is dropped, because editors and `echo` add it; every other byte counts.
///
/// It follows symbolic links and asks for no mode: where secrets are mounted into containers they
/// are links to files that everybody in the container may read. It blocks.
///
/// # Errors
///
/// [`Error::Io`] names the file; [`Error::SecretFileTooLong`] beyond [`MAX_SECRET_BYTES`].
pub fn read_secret_file(path: &Path) -> Result<SecretBytes, Error> {
    let io_error = |source| Error::Io { operation: "read", path: path.to_owned(), source };
    read_secret(File::open(path).map_err(io_error)?, path)
}

/// Reads a secret from whatever is open already, as [`read_secret_file`] does; `name` is what errors call
/// it. Give it a source without a buffer of its own, which would keep a copy: no `std::io::Stdin`.
///
/// # Errors
///
/// As [`read_secret_file`].
pub fn read_secret(source: impl Read, name: &Path) -> Result<SecretBytes, Error> {
    let io_error = |source| Error::Io { operation: "read", path: name.to_owned(), source };
    // A buffer that never grows leaves no copy behind: the longest secret, its line feed, the byte
    // that is too many, and what `read_to_end` wants free to look for the end.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET_BYTES + 64));
    source.take(MAX_SECRET_BYTES as u64 + 2).read_to_end(&mut bytes).map_err(io_error)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    if bytes.len() > MAX_SECRET_BYTES {
        return Err(Error::SecretFileTooLong { path: name.to_owned() });
    }
    Ok(SecretBytes::new(std::mem::take(&mut *bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn one_line_feed_at_the_end_is_dropped_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        for (content, secret) in [
            (&b"hunter2\n"[..], &b"hunter2"[..]),
            (b"hunter2", b"hunter2"),
            (b"hunter2\n\n", b"hunter2\n"),
            (b" a\r\n", b" a\r"),
            (b"\n", b""),
            (b"", b""),
            (b"\xff\0\n", b"\xff\0"),
        ] {
            fs::write(&path, content).unwrap();
            assert_eq!(read_secret_file(&path).unwrap().expose(), secret);
        }
    }

    #[test]
    fn a_file_that_is_too_long_or_missing_or_no_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let mut longest = vec![b'x'; MAX_SECRET_BYTES];
        fs::write(&path, &longest).unwrap();
        assert_eq!(read_secret_file(&path).unwrap().len(), MAX_SECRET_BYTES);
        longest.push(b'\n');
        fs::write(&path, &longest).unwrap();
        assert_eq!(read_secret_file(&path).unwrap().len(), MAX_SECRET_BYTES);
        for too_many in [&b"\n"[..], b"x"] {
            fs::write(&path, [&longest[..], too_many].concat()).unwrap();
            let error = read_secret_file(&path).err().expect("refused");
            assert!(matches!(&error, Error::SecretFileTooLong { path: p } if *p == path));
        }
        for other in [dir.path().join("missing"), dir.path().to_owned()] {
            let error = read_secret_file(&other).err().expect("refused");
            assert!(error.to_string().contains(other.to_str().unwrap()), "{error}");
        }
        let endless = read_secret_file(Path::new("/dev/zero"));
        assert!(matches!(endless, Err(Error::SecretFileTooLong { .. })));
    }
}
