//! Prometheus metrics, fetched over HTTP/1.0: one request per connection, and the answer ends with it.

use super::now;
use super::runner::{Of, stopped};
use crate::config::Scrape;
use crate::metrics::watch::Watch;
use crate::reading::{Problem, Reading, plain_bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// What is read of an answer.
const MAX_BODY: usize = 4 * 1024 * 1024;
const MAX_HEAD: usize = 16 * 1024;

pub(super) async fn run(of: &mut Of, scrape: &Scrape) {
    let mut watch = Watch::new(scrape.wanted.clone());
    let mut tick = interval(of.plugin.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = stopped(&mut of.stop) => return,
            _ = tick.tick() => {}
        }
        let fetched = timeout(scrape.timeout, fetch(scrape)).await.unwrap_or_else(|_| {
            Err(Problem::new(
                format!("no answer within {} ms", scrape.timeout.as_millis()),
                "is the exporter well? timeout_ms may be longer",
            ))
        });
        let reading = match fetched {
            Ok(body) => watch.scrape(now(), &body),
            Err(problem) => Reading { problems: vec![problem.clone()], ..Reading::failure(&problem.what) },
        };
        of.reading(reading).await;
    }
}

async fn fetch(scrape: &Scrape) -> Result<Vec<u8>, Problem> {
    let wrong = |what: String| Problem::new(what, "curl the URL from here, as any user");
    let mut stream = connect(scrape).await.map_err(wrong)?;
    let request = format!(
        "GET {} HTTP/1.0\r\nHost: {}\r\nAccept: application/openmetrics-text;version=1.0.0, text/plain;version=0.0.4\r\n\
         User-Agent: {}\r\nConnection: close\r\n\r\n",
        scrape.path,
        scrape.host,
        crate::PROGRAM.replace(' ', "/"),
    );
    stream.write_all(request.as_bytes()).await.map_err(|e| wrong(format!("it does not listen: {e}")))?;
    let mut answer = Vec::new();
    let mut limited = stream.take((MAX_BODY + MAX_HEAD) as u64 + 1);
    limited.read_to_end(&mut answer).await.map_err(|e| wrong(format!("the answer broke off: {e}")))?;
    if answer.len() > MAX_BODY + MAX_HEAD {
        let what = format!("the answer is longer than {} MiB", MAX_BODY >> 20);
        return Err(Problem::new(what, "scrape a part: many exporters take ?name[]= or ?collect[]="));
    }
    body(answer)
}

fn body(answer: Vec<u8>) -> Result<Vec<u8>, Problem> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n");
    let head_end = end.filter(|at| *at <= MAX_HEAD).ok_or_else(|| {
        Problem::new(format!("no HTTP: {}", plain_bytes(&answer)), "the URL must be one of a web server")
    })?;
    let head = String::from_utf8_lossy(&answer[..head_end]).into_owned();
    let status = head.lines().next().unwrap_or_default();
    let mut words = status.split_whitespace();
    let is_http = words.next().is_some_and(|v| v.starts_with("HTTP/"));
    if !is_http || words.next() != Some("200") {
        let shown = plain_bytes(status.as_bytes());
        return Err(Problem::new(format!("the answer is {shown}"), "200 is wanted: is the path right?"));
    }
    let encoded = head.lines().any(|l| {
        let l = l.to_ascii_lowercase();
        l.starts_with("transfer-encoding:") || l.starts_with("content-encoding:")
    });
    if encoded {
        return Err(Problem::new(
            "the answer is chunked or compressed, which HTTP/1.0 does not have",
            "put an exporter there that speaks HTTP/1.0",
        ));
    }
    let mut answer = answer;
    answer.drain(..head_end + 4);
    Ok(answer)
}

async fn connect(scrape: &Scrape) -> Result<TcpStream, String> {
    let mut error = String::new();
    for address in &scrape.addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(e) => error = format!("cannot connect to {address}: {e}"),
        }
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::body;

    #[test]
    fn an_answer_has_a_head_and_a_body() {
        assert_eq!(body(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\na 1\n".to_vec()).unwrap(), b"a 1\n");
        for (answer, words) in [
            (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "no HTTP: SSH-2.0"),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", "404 Not Found"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n", "chunked"),
            (b"", "no HTTP"),
        ] {
            let problem = body(answer.to_vec()).unwrap_err();
            assert!(problem.what.contains(words), "{problem:?}");
        }
    }
}
