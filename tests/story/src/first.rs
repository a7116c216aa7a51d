//! The programs as they were when the product first moved a VM, built from the history: what some hosts and VMs still
//! run while the others are upgraded.

use crate::{Programs, Result};
use coms_lab::AgentBinaries;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The last commit of the first whole version.
pub const FIRST: &str = "2f6780a90c95d3385d43e8b4c4f2747aa883b4bc";

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Where they are unpacked.
pub fn first_sources() -> PathBuf {
    coms_lab::workspace_root().join("target/first/sources")
}

/// Builds them, without optimising: nobody times them.
pub fn first_programs() -> Result<&'static Programs> {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    if let Some(programs) = PROGRAMS.get() {
        return Ok(programs);
    }
    let sources = first_sources();
    let target = sources.with_file_name("target");
    if !sources.join("Cargo.lock").exists() {
        unpack(&sources)?;
    }
    build(&sources, &target, &["-p", "coms-broker", "--bins"], None)?;
    let of_guests = ["-p", "coms-agent", "--bins", "--target", TARGET];
    build(&sources, &target, &of_guests, Some("-C target-feature=+crt-static"))?;
    let (host, guest) = (target.join("debug"), target.join(TARGET).join("debug"));
    let programs = Programs {
        broker: host.join("coms-broker"),
        comsctl: host.join("comsctl"),
        guest: AgentBinaries { agent: guest.join("coms-agent"), cli: guest.join("coms") },
    };
    Ok(PROGRAMS.get_or_init(|| programs))
}

/// Whole or not at all: a half-unpacked directory must not be built from.
fn unpack(sources: &Path) -> Result<()> {
    let half = sources.with_extension("new");
    if half.exists() {
        fs::remove_dir_all(&half)?;
    }
    fs::create_dir_all(&half)?;
    let archive = half.with_extension("tar");
    let root = coms_lab::workspace_root();
    let git = |args: &[&str]| {
        Command::new("git").args(["-c", "safe.directory=*"]).args(args).current_dir(&root).output()
    };
    let path = archive.to_string_lossy().into_owned();
    let take = ["archive", "--format=tar", "-o", &path, FIRST];
    let mut out = git(&take)?;
    if !out.status.success() {
        // A shallow clone can often be completed from where it came.
        git(&["fetch", "--quiet", "--unshallow"])?;
        out = git(&take)?;
    }
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        return Err(format!(
            "git archive {FIRST}: {said}\nThe first version is built from the history: run this in a clone that has \
             all of it (git fetch --unshallow)."
        )
        .into());
    }
    let status = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&half).status()?;
    if !status.success() {
        return Err(format!("tar -xf {}: {status}", archive.display()).into());
    }
    fs::remove_file(&archive)?;
    Ok(fs::rename(&half, sources)?)
}

fn build(sources: &Path, target: &Path, what: &[&str], rustflags: Option<&str>) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--quiet", "--locked"])
        .args(what)
        .arg("--target-dir")
        .arg(target)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_INCREMENTAL", "0")
        .current_dir(sources)
        .stdin(Stdio::null());
    if let Some(flags) = rustflags {
        command.env("RUSTFLAGS", flags);
    }
    let status = command.status()?;
    if !status.success() {
        return Err(format!("building the first version ({what:?}) failed: {status}").into());
    }
    Ok(())
}
