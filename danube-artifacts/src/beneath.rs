//! Opening below a directory without following symbolic links, in trees that somebody else writes to.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Opens a directory by its path, following links: it is the caller's own choice.
pub(crate) fn open_root(path: &std::path::Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty())?)
}

pub(crate) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

// NONBLOCK: a FIFO that somebody put there must not wait for its writer. NOCTTY: nor may a terminal
// become ours.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);

/// Opens a regular file below `root`; `path` is relative and `/`-separated. No component of it may be
/// a symbolic link, `..` or something that only looks like a file.
pub(crate) fn open_file(root: impl AsFd, path: &str) -> io::Result<File> {
    regular(open(root, path.as_ref(), FILE)?)
}

/// Opens a directory below `root` in the same way; the empty path is `root` itself.
pub(crate) fn open_dir(root: impl AsFd, path: impl AsRef<OsStr>) -> io::Result<OwnedFd> {
    let path = path.as_ref();
    Ok(open(root, if path.is_empty() { OsStr::new(".") } else { path }, DIRECTORY)?)
}

fn regular(fd: OwnedFd) -> io::Result<File> {
    let file = File::from(fd);
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        Ok(file)
    } else if kind.is_dir() {
        Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory"))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

fn open(root: impl AsFd, path: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve) {
        // An old kernel, or a sandbox that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => open_by_component(root, path, flags),
        other => other,
    }
}

/// The same promise where the kernel cannot give it in one call.
fn open_by_component(root: impl AsFd, path: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = path.as_bytes();
    let components: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let (last, dirs) = components.split_last().ok_or(Errno::NOENT)?;
    if path.first() == Some(&b'/') || components.contains(&&b".."[..]) {
        return Err(Errno::XDEV);
    }
    let mut at = root.as_fd().try_clone_to_owned().map_err(|e| {
        Errno::from_raw_os_error(e.raw_os_error().unwrap_or(Errno::IO.raw_os_error()))
    })?;
    for dir in dirs {
        at = rustix::fs::openat(&at, *dir, DIRECTORY, Mode::empty())?;
    }
    rustix::fs::openat(&at, *last, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    type Open = fn(&OwnedFd, &str, OFlags) -> Result<OwnedFd, Errno>;

    #[test]
    fn nothing_is_opened_through_a_link_or_outside() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), b"secret").unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), b"inside").unwrap();
        symlink(outside.path(), dir.path().join("dirlink")).unwrap();
        symlink(outside.path().join("secret"), dir.path().join("filelink")).unwrap();
        symlink("b/file", dir.path().join("a/inside_link")).unwrap();
        symlink("b", dir.path().join("a/inside_dirlink")).unwrap();
        symlink("/proc/self", dir.path().join("proc")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        let fifo_mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("fifo"),
            rustix::fs::FileType::Fifo,
            fifo_mode,
            0,
        )
        .unwrap();
        let root = open_root(dir.path()).unwrap();

        let ways: [(&str, Open); 2] = [
            ("openat2", |root, path, flags| open(root, path.as_ref(), flags)),
            ("by component", |root, path, flags| open_by_component(root, path.as_ref(), flags)),
        ];
        for (desc, way) in ways {
            let open_it = |path: &str| way(&root, path, FILE).map_err(Into::into).and_then(regular);
            let mut text = String::new();
            open_it("a/b/file").unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "inside", "{desc}");
            for hostile in [
                "dirlink/secret",
                "filelink",
                "a/inside_link",
                "a/inside_dirlink/file",
                "proc/environ",
                "proc/fd/0",
                "loop",
                "fifo",
                "a/b",
                "a",
                "a/../a/b/file/..",
                "../etc/passwd",
                "/etc/passwd",
                "a/b/missing",
                "a/b/file/x",
            ] {
                assert!(open_it(hostile).is_err(), "{desc} opened {hostile}");
            }
            assert!(way(&root, "dirlink", DIRECTORY).is_err(), "{desc}");
            assert!(way(&root, "a/inside_dirlink", DIRECTORY).is_err(), "{desc}");
            assert!(way(&root, "a/b", DIRECTORY).is_ok(), "{desc}");
            assert!(way(&root, ".", DIRECTORY).is_ok(), "{desc}");
        }
    }
}
