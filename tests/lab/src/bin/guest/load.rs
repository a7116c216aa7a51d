//! Work in a guest: the customer's (rounds and a web page), and that of a bad neighbour.

use std::{
    fs,
    hint::black_box,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use coms_lab::guest_spec::{HTTP_PORT, ROUNDS_PATH};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{Outcome, init::read_spec};

/// A fixed amount of CPU work that no compiler can shorten.
fn compute(iterations: u64) -> u64 {
    let mut x = black_box(0x9e37_79b9_7f4a_7c15_u64);
    for _ in 0..iterations {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    black_box(x)
}

/// Rounds without end, each one line in the log; and the page.
pub(crate) fn work() -> Outcome {
    let Some(workload) = read_spec()?.workload else { return Err("this guest has no workload".into()) };
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, HTTP_PORT))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream, workload.request_iterations);
        }
    });
    if workload.round_iterations == 0 {
        loop {
            thread::park();
        }
    }
    let mut log = fs::OpenOptions::new().create(true).append(true).open(ROUNDS_PATH)?;
    let begin = Instant::now();
    loop {
        let start = Instant::now();
        compute(workload.round_iterations);
        let round_ms = start.elapsed().as_millis();
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        writeln!(log, "{unix_ms} {} {round_ms}", begin.elapsed().as_millis())?;
    }
}

fn answer(mut stream: TcpStream, iterations: u64) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut lines = BufReader::new(&stream).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let body = format!("worked: {:016x}\n", compute(iterations));
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Prints how long the default workload's pieces take here.
pub(crate) fn calibrate() -> Outcome {
    for iterations in [1_900_000, 75_000_000, 75_000_000] {
        let start = Instant::now();
        compute(iterations);
        println!("{iterations} iterations: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

/// Starts `WHAT run ARGS` in the background, in place of an earlier one.
pub(crate) fn start(what: &str, args: &[&str]) -> Outcome {
    stop(what)?;
    let child = Command::new("/init")
        .args([what, "run"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    Ok(fs::write(pid_file(what), child.id().to_string())?)
}

/// Ends what [`start`] began; fine if there is nothing.
pub(crate) fn stop(what: &str) -> Outcome {
    let Ok(text) = fs::read_to_string(pid_file(what)) else { return Ok(()) };
    if let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    Ok(fs::remove_file(pid_file(what))?)
}

fn pid_file(what: &str) -> String {
    format!("/run/coms-lab-{what}.pid")
}

/// Burns CPU.
pub(crate) fn hog(threads: u32) -> Outcome {
    for _ in 1..threads {
        thread::spawn(|| {
            loop {
                compute(1_000_000);
            }
        });
    }
    loop {
        compute(1_000_000);
    }
}

/// Writes to one byte of every page of `mib` MiB in turn, so that `mib_s` MiB a second get dirty.
pub(crate) fn dirty(mib: usize, mib_s: usize) -> Outcome {
    const PAGES_PER_MIB: usize = (1 << 20) / 4096;
    let mut memory = vec![1_u8; mib << 20];
    let pages = mib * PAGES_PER_MIB;
    let begin = Instant::now();
    let mut written = 0_usize;
    let mut page = 0_usize;
    loop {
        let due = begin.elapsed().as_millis() as usize * mib_s * PAGES_PER_MIB / 1000;
        // After a pause the time lost is lost: no burst.
        written = written.max(due.saturating_sub(mib_s * PAGES_PER_MIB / 10));
        while written < due {
            let byte = &mut memory[page * 4096];
            *byte = byte.wrapping_add(1);
            page = (page + 1) % pages;
            written += 1;
        }
        black_box(&memory);
        thread::sleep(Duration::from_millis(5));
    }
}
