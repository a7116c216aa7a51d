//! Runs a program for somebody outside: one request, one reply.

use std::{
    io::{self, BufRead as _, BufReader, Read, Write as _},
    net::TcpStream,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use coms_lab::guest_spec::{ExecReply, ExecRequest};
use rustix::process::{Pid, Signal, kill_process_group};

/// More than this of an output is thrown away.
const OUTPUT_BYTES: u64 = 4 << 20;

pub(crate) fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let reply = match serde_json::from_str::<ExecRequest>(&line) {
        Ok(request) => run(&request).unwrap_or_else(|error| failed(error.to_string())),
        Err(error) => failed(format!("not an exec request: {error}")),
    };
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    stream.write_all(&text)
}

fn failed(error: String) -> ExecReply {
    ExecReply { status: -1, stdout: String::new(), stderr: String::new(), error: Some(error) }
}

fn run(request: &ExecRequest) -> io::Result<ExecReply> {
    let [program, args @ ..] = request.argv.as_slice() else {
        return Err(io::Error::other("an empty command line"));
    };
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot start {program}: {error}")))?;
    if let Some(mut pipe) = child.stdin.take() {
        let stdin = request.stdin.clone();
        thread::spawn(move || pipe.write_all(stdin.as_bytes()));
    }
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());

    let deadline = Instant::now() + Duration::from_millis(request.timeout_ms);
    let mut error = None;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline && error.is_none() {
            error = Some(format!("still running after {} ms; killed", request.timeout_ms));
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        }
        thread::sleep(Duration::from_millis(2));
    };
    // A descendant in the background may hold the pipes open; the program's own output is there by now.
    let text = |output: mpsc::Receiver<Vec<u8>>| {
        let mut bytes = Vec::new();
        while let Ok(part) = output.recv_timeout(Duration::from_secs(1)) {
            bytes.extend(part);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
    Ok(ExecReply { status: code, stdout: text(stdout), stderr: text(stderr), error })
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let Some(mut pipe) = pipe else { return };
        let mut buffer = vec![0; 64 << 10];
        let mut kept = 0;
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            kept += length as u64;
            if kept <= OUTPUT_BYTES && sender.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}
