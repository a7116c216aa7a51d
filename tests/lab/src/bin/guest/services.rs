//! What listens inside a guest, and what keeps the agent running.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use coms_lab::guest_spec::{AgentSpec, ECHO_PORT, EXEC_PORT, STREAM_PORT};

use crate::{Outcome, exec, init::read_spec};

const AGENT: &str = "/usr/bin/coms-agent";
const AGENT_LOG: &str = "/var/log/coms-agent.stderr";

/// Sends every packet back, and over TCP every byte; and on another port bytes without end.
pub(crate) fn echo() -> Outcome {
    let (echoing, streaming) = (
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, ECHO_PORT))?,
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, STREAM_PORT))?,
    );
    thread::spawn(move || serve_each(&echoing, |mut from, mut to| io::copy(&mut from, &mut to).map(drop)));
    thread::spawn(move || serve_each(&streaming, |_, to| stream(to)));
    // Ahead of the guest's own work: what it measures is the machine, not the guest's load.
    rustix::process::setpriority_process(None, -10)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, ECHO_PORT))?;
    let mut packet = [0; 2048];
    loop {
        if let Ok((length, from)) = socket.recv_from(&mut packet) {
            let _ = socket.send_to(&packet[..length], from);
        }
    }
}

fn serve_each(listener: &TcpListener, serve: fn(TcpStream, TcpStream) -> io::Result<()>) {
    for from in listener.incoming().flatten() {
        let _ = from.set_nodelay(true);
        // Ends with the connection.
        thread::spawn(move || from.try_clone().and_then(|to| serve(from, to)));
    }
}

fn stream(mut to: TcpStream) -> io::Result<()> {
    let bytes = [b'x'; 1 << 16];
    loop {
        to.write_all(&bytes)?;
    }
}

/// Answers exec requests, and runs the agent if this guest has one.
pub(crate) fn serve() -> Outcome {
    if let Some(agent) = read_spec()?.agent {
        thread::spawn(move || keep_agent(&agent));
    }
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, EXEC_PORT))?;
    for stream in listener.incoming().flatten() {
        thread::spawn(move || exec::answer(stream));
    }
    Ok(())
}

fn keep_agent(spec: &AgentSpec) {
    loop {
        let ended = run_agent(spec).map_or_else(|error| error.to_string(), |status| status.to_string());
        let _ = log(&format!("coms-lab-guest: {AGENT} ended: {ended}; starting it again in 1 s"));
        thread::sleep(Duration::from_secs(1));
    }
}

fn run_agent(spec: &AgentSpec) -> io::Result<std::process::ExitStatus> {
    let mut child = Command::new(AGENT)
        .args(&spec.args)
        .envs(&spec.env)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take();
    thread::spawn(move || copy_lines(stdout));
    let stderr = child.stderr.take();
    let copying = thread::spawn(move || copy_lines(stderr));
    let status = child.wait()?;
    // Its last words come before the line that says how it ended.
    let _ = copying.join();
    Ok(status)
}

fn copy_lines(pipe: Option<impl Read>) {
    let Some(pipe) = pipe else { return };
    for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
        let _ = log(&String::from_utf8_lossy(&line));
    }
}

/// To the log, and to the console so that it is on the host too.
fn log(line: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new().create(true).append(true).open(AGENT_LOG)?;
    file.write_all(format!("{line}\n").as_bytes())?;
    println!("coms-agent: {line}");
    Ok(())
}

/// Sends back what comes over a port: the least that any agent behind one must do.
pub(crate) fn port_echo(port: &str) -> Outcome {
    let path = format!("/dev/virtio-ports/{port}");
    let mut port = OpenOptions::new().read(true).write(true).open(&path)?;
    let mut buffer = [0; 4096];
    loop {
        match port.read(&mut buffer)? {
            // Nobody has the host's end open.
            0 => thread::sleep(Duration::from_millis(250)),
            n => port.write_all(&buffer[..n])?,
        }
    }
}
