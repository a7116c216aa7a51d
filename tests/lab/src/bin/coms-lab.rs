//! `coms-lab up`: a lab to play with, until Ctrl-C.

use std::process::ExitCode;

use coms_lab::{GuestConfig, HostConfig, Lab, LabConfig};

const HELP: &str = "\
Brings up libvirt hosts in namespaces with one running guest, and keeps them until Ctrl-C.

Usage: coms-lab up [--hosts N]

Examples:
  sudo target/debug/coms-lab up
  sudo target/debug/coms-lab up --hosts 3
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let hosts = match words.as_slice() {
        ["up"] => Some(2),
        ["up", "--hosts", number] => number.parse().ok().filter(|number| (1..=200).contains(number)),
        ["--help" | "-h" | "help"] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => None,
    };
    let Some(hosts) = hosts else {
        eprint!("{HELP}");
        return ExitCode::from(2);
    };
    match up(hosts) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Debug: with its causes.
            eprintln!("coms-lab: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn up(hosts: usize) -> coms_lab::Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let hosts =
        (0..hosts).map(|index| HostConfig::new(&format!("h{}", index + 1)).cpu(index % cpus)).collect();
    let lab = Lab::new(LabConfig { hosts, ..LabConfig::default() })?;
    let guest = lab.boot(GuestConfig::default(), "h1")?;
    println!("lab {} is up; logs: {}", lab.id(), lab.dir().display());
    for host in lab.hosts() {
        println!("{} ({}):", host.name(), host.ip());
        println!("  virsh -c '{}' list", host.libvirt_uri_local());
        println!("  nsenter --target {} --net --mount --uts", host.holder_pid());
    }
    println!(
        "guest {} ({}), accel=tcg; migrate it from inside a host, to another:",
        guest.name(),
        guest.ip()
    );
    println!("  virsh migrate --live --p2p {} qemu+tcp://h2/system", guest.name());
    println!("Ctrl-C ends it all.");
    loop {
        // The guardian cleans up after whatever ends this process.
        std::thread::park();
    }
}
