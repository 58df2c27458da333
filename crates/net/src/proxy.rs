//! `CONNECT` through a proxy (RFC 9110 9.3.6).

use std::io;

use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::{ProxyFault, SendErrorKind};

/// Most bytes of a proxy's answer to `CONNECT`.
const MAX_HEAD: usize = 8 * 1024;

/// Asks the proxy for a tunnel to `authority` (`host:port`).
pub(crate) async fn tunnel<S>(
    stream: &mut S,
    authority: &str,
    authorization: Option<&HeaderValue>,
) -> Result<(), SendErrorKind>
where
    S: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
    if let Some(value) = authorization {
        head.extend_from_slice(b"Proxy-Authorization: ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    let head = zeroize::Zeroizing::new(head);
    let lost = |error: io::Error| SendErrorKind::Proxy(ProxyFault::Connect(error.kind()));
    stream.write_all(&head).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    match read_status(stream).await? {
        200..=299 => Ok(()),
        407 => Err(SendErrorKind::Proxy(ProxyFault::Authentication)),
        status => Err(SendErrorKind::Proxy(ProxyFault::Status(status))),
    }
}

/// Reads up to the empty line, byte by byte: what follows belongs to the tunnel.
async fn read_status<S: AsyncRead + Unpin + ?Sized>(stream: &mut S) -> Result<u16, SendErrorKind> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == MAX_HEAD {
            return Err(SendErrorKind::Proxy(ProxyFault::Protocol));
        }
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(SendErrorKind::Proxy(ProxyFault::Protocol));
            }
            Err(error) => return Err(SendErrorKind::Proxy(ProxyFault::Connect(error.kind()))),
        }
    }
    parse_status(&head).ok_or(SendErrorKind::Proxy(ProxyFault::Protocol))
}

fn parse_status(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 "))?;
    let (digits, rest) = rest.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) || !matches!(rest.first(), Some(b' ' | b'\r')) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|status| *status >= 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_is_read_strictly() {
        assert_eq!(parse_status(b"HTTP/1.1 200 Connection established\r\n\r\n"), Some(200));
        assert_eq!(parse_status(b"HTTP/1.0 407\r\n\r\n"), Some(407));
        for bad in ["HTTP/2 200 OK\r\n", "HTTP/1.1 20 \r\n", "HTTP/1.1 2000 x", "SSH-2.0-x", "HTTP/1.1 100 x", ""] {
            assert_eq!(parse_status(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
