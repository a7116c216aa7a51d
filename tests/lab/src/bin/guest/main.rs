//! Everything that the lab runs inside a guest, one program by its first argument.
//!
//! As PID 1 it sets the machine up and then only reaps; it runs itself again for the work:
//! `serve` (exec over TCP, the agent), `echo` (UDP), `work`, `hog`, `dirty`, `pattern` and `secret`,
//! `nonsense` and `ask` (over the agent's port, in a guest without one), `port-echo` (over any port), `tpm-seal` and
//! `tpm-unseal`.

mod exec;
mod hostile;
mod init;
mod load;
mod pattern;
mod port;
mod secret;
mod services;
mod tpm;

use std::process::ExitCode;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = if std::process::id() == 1 { init::run() } else { dispatch(&words) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coms-lab-guest {}: {error}", words.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(words: &[&str]) -> Outcome {
    match words {
        ["serve"] => services::serve(),
        ["echo"] => services::echo(),
        ["work"] => load::work(),
        ["hog", "start", threads] => load::start("hog", &[threads]),
        ["dirty", "start", mib, mib_s] => load::start("dirty", &[mib, mib_s]),
        ["pattern", "start", mib, mib_s] => load::start("pattern", &[mib, mib_s]),
        ["pattern", "run", mib, mib_s] => pattern::run(mib.parse()?, mib_s.parse()?),
        ["pattern", "verify"] => pattern::verify(),
        ["secret", "start", mib, hex] => secret::start(mib, hex),
        ["secret", "run", mib, hex] => secret::hold(mib.parse()?, hex),
        ["secret", "write", path, mib, hex] => secret::write(path, mib.parse()?, hex),
        [what @ ("hog" | "dirty" | "pattern" | "secret"), "stop"] => load::stop(what),
        ["hog", "run", threads] => load::hog(threads.parse()?),
        ["dirty", "run", mib, mib_s] => load::dirty(mib.parse()?, mib_s.parse()?),
        ["nonsense", kind, ms] => hostile::nonsense(kind, ms.parse()?),
        ["ask", ms] => hostile::ask(ms.parse()?),
        ["calibrate"] => load::calibrate(),
        ["tpm-seal", secret, file] => tpm::seal(secret, file),
        ["tpm-unseal", file] => tpm::unseal(file),
        ["port-echo", port] => services::port_echo(port),
        _ => Err("unknown; known are: serve, echo, work, calibrate, hog start THREADS, hog stop, \
                  dirty start MIB MIB_S, dirty stop, pattern start MIB MIB_S, pattern verify, pattern stop, \
                  secret start MIB HEX, secret stop, secret write PATH MIB HEX, \
                  nonsense KIND MS, ask MS, port-echo PORT, tpm-seal SECRET FILE, tpm-unseal FILE"
            .into()),
    }
}
