//! Probes against real servers and real programs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use coms_agent::config::{Config, Probe};
use coms_agent::event::Sample;
use coms_agent::io::probes::measure;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

fn probe(keys: &str) -> Probe {
    let text = format!("[[workload]]\nname = \"w\"\nprobe = {{ {keys} }}\n");
    Config::parse(&text, Path::new("x")).unwrap().workloads.remove(0).probe
}

/// Answers every connection with these bytes, then closes, or holds on.
fn server(answer: Vec<u8>, hold: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, answer) = (stream.unwrap(), answer.clone());
            std::thread::spawn(move || {
                let n = stream.read(&mut [0u8; 2048]).unwrap_or(0);
                assert!(n == 0 || n > 20);
                let _ = stream.write_all(&answer);
                if hold {
                    std::thread::sleep(Duration::from_secs(60));
                }
            });
        }
    });
    address
}

async fn http(answer: &str, hold: bool) -> Sample {
    let address = server(answer.as_bytes().to_vec(), hold);
    measure(&probe(&format!("http = \"http://{address}/\"")), Duration::from_millis(1500)).await
}

fn failed(sample: Sample, with: &str) {
    match sample {
        Sample::Failed(why) => assert!(why.contains(with), "{why:?} lacks {with:?}"),
        Sample::Took(t) => panic!("took {t:?}, should have failed with {with:?}"),
    }
}

fn took(sample: Sample) {
    assert!(matches!(sample, Sample::Took(t) if t < Duration::from_millis(1500)), "{sample:?}");
}

#[tokio::test]
async fn http_is_read_to_its_end_and_no_further() {
    took(http("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", true).await);
    took(http("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", true).await);
    took(http("HTTP/1.0 200 OK\r\n\r\nuntil the end", false).await);
    took(http("HTTP/1.1 302 Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", true).await);
    failed(http("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", true).await, "503");
    failed(http("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", false).await, "2 of 9");
    failed(http("SSH-2.0-OpenSSH_9.2\r\n\r\n", true).await, "SSH-2.0");
    failed(http("HTTP/1.1 200 OK\r\n", false).await, "before its head");
    failed(http(&format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(20_000)), true).await, "16384");
    failed(http(&format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(1_200_000)), false).await, "1048576");
    failed(http("", true).await, "within 1500 ms");
    failed(http("", false).await, "");
}

#[tokio::test]
async fn tcp_connects_or_fails() {
    let address = server(vec![], true);
    took(measure(&probe(&format!("tcp = \"{address}\"")), Duration::from_millis(1500)).await);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    failed(measure(&probe(&format!("tcp = \"{closed}\"")), Duration::from_millis(1500)).await, "refused");
}

#[tokio::test]
async fn commands_are_judged_by_their_exit_code_and_killed_with_their_children() {
    let run =
        async |argv: &str, ms| measure(&probe(&format!("command = {argv}")), Duration::from_millis(ms)).await;
    took(run("[\"/bin/true\"]", 5000).await.clamp_to(1500));
    failed(run("[\"/bin/false\"]", 5000).await, "exit status: 1");
    failed(run("[\"/no/such/program\"]", 5000).await, "cannot start");
    let begun = Instant::now();
    let mark = format!("{}.25", 86_000 + std::process::id() % 1000);
    failed(
        run(&format!("[\"/bin/sh\", \"-c\", \"sleep {mark} & sleep {mark}\"]"), 200).await,
        "within 200 ms",
    );
    assert!(begun.elapsed() < Duration::from_secs(2));
    std::thread::sleep(Duration::from_millis(100));
    let left = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).any(|p| {
        let line = std::fs::read(p.path().join("cmdline")).unwrap_or_default();
        line.starts_with(b"sleep\0") && String::from_utf8_lossy(&line).contains(&mark)
    });
    assert!(!left, "a grandchild lives on");
}

trait Clamp {
    fn clamp_to(self, ms: u64) -> Self;
}

impl Clamp for Sample {
    /// A busy test machine may start programs slowly; that it succeeded is what counts.
    fn clamp_to(self, ms: u64) -> Self {
        match self {
            Sample::Took(t) => Sample::Took(t.min(Duration::from_millis(ms - 1))),
            failed @ Sample::Failed(_) => failed,
        }
    }
}
