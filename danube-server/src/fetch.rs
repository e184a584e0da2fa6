//! Fetching from another `danube serve`: plain HTTP, as it listens on one machine alone.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use danube_core::ErrorClass;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::failure::Failure;

/// How long a server may say nothing: ten times what a busy disk needs.
const SILENCE: Duration = Duration::from_secs(30);

/// A server by its address.
pub(crate) struct Server {
    /// Host and port.
    authority: String,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

impl Server {
    pub(crate) fn new(uri: &Uri) -> Result<Self, Failure> {
        let wrong = || Failure::invalid(format!("{uri} is no http://HOST:PORT"));
        let authority = uri.authority().ok_or_else(wrong)?;
        let is_bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        if uri.scheme_str() != Some("http") || !is_bare || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self { authority: format!("{}:{port}", authority.host()) })
    }

    /// All of a small thing.
    pub(crate) async fn whole(&self, path: &str, limit: u64) -> Result<Vec<u8>, Failure> {
        let mut all = Vec::new();
        self.each(path, limit, |piece| all.extend_from_slice(piece)).await?;
        Ok(all)
    }

    /// Each piece of a thing of at most `limit` bytes; gives how many there were. A body that ends before
    /// its announced length is an error.
    pub(crate) async fn each(
        &self,
        path: &str,
        limit: u64,
        mut take: impl FnMut(&[u8]),
    ) -> Result<u64, Failure> {
        let failed = |why: &dyn fmt::Display| {
            Failure::new(ErrorClass::Unavailable, format!("cannot fetch {self}{path}: {why}"))
        };
        let silent = |_| failed(&"the server says nothing");
        let connecting = timeout(SILENCE, TcpStream::connect(&self.authority)).await;
        let stream = connecting.map_err(silent)?.map_err(|e| failed(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| failed(&e))?;
        let connection = tokio::spawn(connection);
        let request = Request::get(path)
            .header(header::HOST, &self.authority)
            .body(Empty::<Bytes>::new())
            .map_err(|e| failed(&e))?;
        let answered = timeout(SILENCE, sender.send_request(request)).await;
        let response = answered.map_err(silent)?.map_err(|e| failed(&e))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                let message = format!("there is no {self}{path}");
                return Err(Failure::new(ErrorClass::NotFound, message));
            }
            status => return Err(failed(&status)),
        }
        let mut body = response.into_body();
        let mut length = 0;
        while let Some(frame) = timeout(SILENCE, body.frame()).await.map_err(silent)? {
            let Ok(piece) = frame.map_err(|e| failed(&e))?.into_data() else { continue };
            length += piece.len() as u64;
            if length > limit {
                return Err(failed(&format_args!("it is longer than {limit} bytes")));
            }
            take(&piece);
        }
        connection.abort();
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_http_address_and_nothing_else() {
        for good in ["http://127.0.0.1:8080", "http://ci.example.com/", "http://[::1]:80"] {
            assert!(Server::new(&good.parse().unwrap()).is_ok(), "{good}");
        }
        for bad in
            ["https://a", "a:80", "/x", "http://a/b", "http://a?b", "http://u:p@a", "ftp://a"]
        {
            assert!(Server::new(&bad.parse().unwrap()).is_err(), "{bad}");
        }
    }
}
