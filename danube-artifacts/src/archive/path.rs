//! Which paths and targets an archive may hold.

use super::{MAX_COMPONENT_BYTES, MAX_DEPTH, MAX_PATH_BYTES, Refusal};

/// The path without `./` in front and `/` behind, and whether there was a `/` behind. The root itself,
/// `.` or `./`, is empty.
pub(super) fn checked_path(bytes: &[u8]) -> Result<(String, bool), Refusal> {
    let text = checked_text(bytes)?;
    if text.is_empty() {
        return Err(Refusal::OddPath);
    }
    if text.starts_with('/') {
        return Err(Refusal::Absolute);
    }
    let below = match text {
        "." => "",
        _ => text.strip_prefix("./").unwrap_or(text),
    };
    let path = below.strip_suffix('/').unwrap_or(below);
    let has_slash = text.ends_with('/');
    if path.is_empty() {
        // `./` in front of nothing; `/` alone is absolute.
        return Ok((String::new(), has_slash));
    }
    let mut depth = 0;
    for component in path.split('/') {
        depth += 1;
        match component {
            ".." => return Err(Refusal::ParentDirectory),
            "" | "." => return Err(Refusal::OddPath),
            _ if component.len() > MAX_COMPONENT_BYTES => {
                return Err(Refusal::NameTooLong { limit: MAX_COMPONENT_BYTES });
            }
            _ => {}
        }
    }
    if depth > MAX_DEPTH {
        return Err(Refusal::TooDeep { limit: MAX_DEPTH });
    }
    Ok((path.to_owned(), has_slash))
}

/// The target of a symbolic link that lies at `path`.
///
/// `..` may stand only in front, and not oftener than there are directories above the link: those are
/// real directories, because no path leads through a link. What follows goes down, through links for
/// which the same holds; so nothing in the tree leads out of it.
pub(super) fn checked_target(path: &str, bytes: &[u8]) -> Result<String, Refusal> {
    let target = checked_text(bytes)?;
    let outside = || Refusal::LinkOutside { target: target.to_owned() };
    if target.is_empty() || target.starts_with('/') {
        return Err(outside());
    }
    let mut ups = 0;
    let mut is_going_down = false;
    for component in target.split('/') {
        match component {
            ".." if is_going_down => return Err(outside()),
            ".." => ups += 1,
            "" | "." => {}
            _ if component.len() > MAX_COMPONENT_BYTES => {
                return Err(Refusal::NameTooLong { limit: MAX_COMPONENT_BYTES });
            }
            _ => is_going_down = true,
        }
    }
    if ups > path.matches('/').count() {
        return Err(outside());
    }
    Ok(target.to_owned())
}

fn checked_text(bytes: &[u8]) -> Result<&str, Refusal> {
    if bytes.len() > MAX_PATH_BYTES {
        return Err(Refusal::NameTooLong { limit: MAX_PATH_BYTES });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Refusal::NotUtf8)?;
    if text.chars().any(char::is_control) {
        return Err(Refusal::ControlCharacters);
    }
    Ok(text)
}
