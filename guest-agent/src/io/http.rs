//! One GET, by hand: HTTP/1.1, one connection, bounded in every direction.

use crate::config::HttpTarget;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Status line and headers.
const MAX_HEAD: usize = 16 * 1024;
/// A probe that fetches more than this measures a download, not a service.
const MAX_BODY: u64 = 1024 * 1024;

/// Sends the request and reads the whole answer. The error says what was wrong with it.
pub(super) async fn get(stream: &mut TcpStream, target: &HttpTarget) -> Result<(), String> {
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        target.path,
        target.host,
        concat!("coms-agent/", env!("CARGO_PKG_VERSION"))
    );
    stream.write_all(request.as_bytes()).await.map_err(|e| format!("cannot send: {e}"))?;

    let mut head = Vec::new();
    let body_at = loop {
        if let Some(end) = find(&head, b"\r\n\r\n") {
            break end + 4;
        }
        if head.len() >= MAX_HEAD {
            return Err(format!("the answer's head is longer than {MAX_HEAD} bytes"));
        }
        let room = MAX_HEAD - head.len();
        if (&mut *stream)
            .take(room as u64)
            .read_buf(&mut head)
            .await
            .map_err(|e| format!("cannot read: {e}"))?
            == 0
        {
            return Err("the answer ends before its head does".to_owned());
        }
    };
    let body = head.split_off(body_at);
    let head = String::from_utf8_lossy(&head);
    let status = status(&head)?;
    let length = header(&head, "content-length").and_then(|v| v.parse::<u64>().ok());
    let chunked = header(&head, "transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"));
    drain(stream, body, if chunked { None } else { length }, chunked).await?;
    if (200..400).contains(&status) { Ok(()) } else { Err(format!("answers {status}")) }
}

async fn drain(
    stream: &mut TcpStream,
    first: Vec<u8>,
    length: Option<u64>,
    chunked: bool,
) -> Result<(), String> {
    let mut seen = first.len() as u64;
    // The last bytes, to see a chunked body's end; the rest need not be kept.
    let mut last = first;
    let mut buffer = [0u8; 8192];
    loop {
        let whole = length.is_some_and(|l| seen >= l) || chunked && last.ends_with(b"0\r\n\r\n");
        if whole {
            return Ok(());
        }
        if seen > MAX_BODY {
            return Err(format!("the answer is longer than {MAX_BODY} bytes; probe something smaller"));
        }
        let n = stream.read(&mut buffer).await.map_err(|e| format!("cannot read: {e}"))?;
        if n == 0 {
            return match length {
                Some(l) if seen < l => Err(format!("the answer ends after {seen} of {l} bytes")),
                Some(_) | None => Ok(()),
            };
        }
        seen += n as u64;
        last.extend_from_slice(&buffer[..n]);
        last.drain(..last.len().saturating_sub(8));
    }
}

fn status(head: &str) -> Result<u16, String> {
    let line = head.lines().next().unwrap_or_default();
    let mut words = line.split(' ');
    let version = words.next().is_some_and(|v| v.starts_with("HTTP/1."));
    words.next().filter(|_| version).and_then(|s| s.parse().ok()).ok_or_else(|| {
        let shown: String = line.chars().filter(|c| !c.is_control()).take(60).collect();
        format!("does not speak HTTP/1; it says \"{shown}\"")
    })
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().skip(1).filter_map(|l| l.split_once(':'));
    lines.map(|(k, v)| (k, v.trim())).find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}
