//! Addresses of repositories.

use danube_secrets::MASK;

/// The URL of a repository without what opens it: CI clones from `https://TOKEN@…`, and nobody declares that
/// token to be a secret of the job. Of `ssh` the user's name is a part of the address and stays.
pub(crate) fn without_credentials(url: &str) -> String {
    // `git@host:path`, a path: no place for a password.
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, host) = match authority.rsplit_once('@') {
        Some((user_info, host)) => {
            let user = user_info.split(':').next().filter(|_| scheme.contains("ssh"));
            (user.map(|user| format!("{user}@")).unwrap_or_default(), host)
        }
        None => (String::new(), authority),
    };
    // A password may have a `/` in it that should have been escaped: then what looks like a port is none.
    let port = host.rsplit_once(':').filter(|_| !host.ends_with(']')).map_or("", |(_, port)| port);
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return format!("{scheme}://{MASK}");
    }
    format!("{scheme}://{user}{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_a_repository_is_written_without_what_opens_it() {
        for (typed, written) in [
            ("https://x-access-token:ghs_1@github.com/a/b", "https://github.com/a/b"),
            ("https://ghs_1@github.com/a/b.git?x#y", "https://github.com/a/b.git?x#y"),
            ("https://ci:p@ss@host:8443/a@b", "https://host:8443/a@b"),
            ("https://ci:@host", "https://host"),
            ("ssh://git:ghs_1@host:22/a", "ssh://git@host:22/a"),
            // What no parser would take: nothing of it is written.
            ("https://ci:pa/ss@host/a", "https://***"),
            // Nothing to hide.
            ("https://host/@scope/a", "https://host/@scope/a"),
            ("https://[::1]/a", "https://[::1]/a"),
            ("https://[::1]:8443/a", "https://[::1]:8443/a"),
            ("ssh://git@host/a", "ssh://git@host/a"),
            ("git@host:a/b", "git@host:a/b"),
            ("/srv/git/a", "/srv/git/a"),
        ] {
            assert_eq!(without_credentials(typed), written, "{typed}");
        }
    }
}
