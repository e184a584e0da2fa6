//! Whose requests are answered: those that were meant for this machine.
//!
//! There are no tokens yet, and every page in a browser may ask 127.0.0.1. What such a page cannot do
//! is to choose the `Host`: a name of its own that it points at 127.0.0.1 (DNS rebinding) gives it
//! away.

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::HOST;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;

/// Middleware that refuses requests for another host.
pub(super) async fn only_this_machine(request: Request, next: Next) -> Response {
    match check(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn check(request: &Request) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let header = match (hosts.next(), hosts.next()) {
        (header, None) => header.map(|value| value.to_str().unwrap_or("")),
        (_, Some(_)) => return Err(Problem::invalid("the request has several Host headers")),
    };
    // HTTP/2 names its host in `:authority`, which hyper puts into the URI.
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let named: Vec<&str> = header.into_iter().chain(authority).collect();
    if named.is_empty() {
        return Err(Problem::invalid("the request has no Host header"));
    }
    if named.into_iter().all(is_this_machine) {
        return Ok(());
    }
    Err(Problem::http(
        StatusCode::MISDIRECTED_REQUEST,
        "foreign_host",
        "this server answers only requests for localhost, 127.0.0.1 and [::1]",
    ))
}

/// Whether `host[:port]` names this machine. Nothing is resolved, and nothing else is allowed in it.
fn is_this_machine(host: &str) -> bool {
    let (name, port) = match host.strip_prefix("[::1]") {
        Some(rest) => ("[::1]", rest),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let name_is_ours =
        matches!(name, "127.0.0.1" | "[::1]") || name.eq_ignore_ascii_case("localhost");
    let digits = port.strip_prefix(':').unwrap_or("");
    name_is_ours && (port.is_empty() || digits.parse::<u16>().is_ok() && !digits.starts_with('+'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_pass() {
        for good in [
            "localhost",
            "LocalHost",
            "localhost:8080",
            "127.0.0.1",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:65535",
        ] {
            assert!(is_this_machine(good), "{good} was refused");
        }
        for bad in [
            "",
            ":",
            ":80",
            "evil.example",
            "localhost.evil.example",
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "127.0.0.2",
            "127.1",
            "localhost@evil.example",
            "[::1]evil",
            "[::1]:",
            "localhost:",
            "localhost:+1",
            "localhost:65536",
            "localhost:80:80",
            "::1",
            "[::2]",
            "localhost.",
            " localhost",
            "localhost/",
            "0.0.0.0",
            "user@localhost",
        ] {
            assert!(!is_this_machine(bad), "{bad:?} was accepted");
        }
    }
}
