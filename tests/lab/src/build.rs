//! Builds what runs inside the guests: static, small, in a target directory of its own, so that
//! neither flags nor locks meet those of the cargo that runs the tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::error::{Doing as _, Result, require_success};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The top of the workspace.
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// The guest's programs of the product.
#[derive(Clone, Debug)]
pub struct AgentBinaries {
    /// `coms-agent`
    pub agent: PathBuf,
    /// `coms`
    pub cli: PathBuf,
}

/// Builds `coms-agent` and `coms` for the guests; quick when nothing has changed.
pub fn build_agent() -> Result<AgentBinaries> {
    build("coms-agent", &["--bins"])?;
    Ok(AgentBinaries { agent: binary("coms-agent"), cli: binary("coms") })
}

/// Builds `coms-plugins` for the guests.
pub fn build_plugins() -> Result<PathBuf> {
    build("coms-plugins", &["--bin", "coms-plugins"])?;
    Ok(binary("coms-plugins"))
}

/// The same with the agent's feature `faults`, kept in `to`: what is built next must not take its place.
pub fn build_agent_with_faults(to: &Path) -> Result<AgentBinaries> {
    build("coms-agent", &["--bins", "--features", "faults"])?;
    let keep = |name: &str| -> Result<PathBuf> {
        let kept = to.join(name);
        fs::copy(binary(name), &kept).doing(|| format!("keeping {}", kept.display()))?;
        Ok(kept)
    };
    Ok(AgentBinaries { agent: keep("coms-agent")?, cli: keep("coms")? })
}

/// Builds the lab's own guest program; [`crate::Lab::new`] does it by itself.
pub fn build_lab_guest() -> Result<PathBuf> {
    build("coms-lab", &["--bin", "coms-lab-guest"])?;
    Ok(binary("coms-lab-guest"))
}

fn binary(name: &str) -> PathBuf {
    target_dir().join(TARGET).join("guest").join(name)
}

fn target_dir() -> PathBuf {
    workspace_root().join("target/guest")
}

fn build(package: &str, what: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--profile", "guest", "--target", TARGET, "-p", package])
        .args(what)
        .arg("--target-dir")
        .arg(target_dir())
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .current_dir(workspace_root())
        .stdin(Stdio::null());
    let output = command.output().doing(|| format!("running cargo to build {package} for the guests"))?;
    require_success(&["cargo", "build", "--profile", "guest", "-p", package], output).map(drop)
}
