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
    agent(&["--bins"], &target_dir().join("plain"))
}

/// Builds `coms-plugins` for the guests.
pub fn build_plugins() -> Result<PathBuf> {
    build("coms-plugins", &["--bin", "coms-plugins"])?;
    Ok(binary("coms-plugins"))
}

/// The same with the agent's feature `faults`, kept in `to`: what is built next must not take its place.
pub fn build_agent_with_faults(to: &Path) -> Result<AgentBinaries> {
    agent(&["--bins", "--features", "faults"], to)
}

fn agent(what: &[&str], to: &Path) -> Result<AgentBinaries> {
    let _alone = building()?;
    build("coms-agent", what)?;
    let keep = |name: &str| keep(&binary(name), to);
    Ok(AgentBinaries { agent: keep("coms-agent")?, cli: keep("coms")? })
}

/// Programs of one name and other features are built at one place, for whoever plays a lab: held while one is built and
/// taken away from there.
pub fn building() -> Result<fs::File> {
    let path = workspace_root().join("target/labs.lock");
    let doing = || format!("locking {}", path.display());
    let file = fs::File::create(&path).doing(doing)?;
    file.lock().doing(doing)?;
    Ok(file)
}

/// A program that was built, in a directory of its own from where it may be started at any moment.
pub fn keep(built: &Path, to: &Path) -> Result<PathBuf> {
    let name = built.file_name().unwrap_or_default();
    let kept = to.join(name);
    let doing = || format!("keeping {}", kept.display());
    fs::create_dir_all(to).doing(doing)?;
    let half = to.join(format!("{}.new", name.to_string_lossy()));
    fs::copy(built, &half).doing(doing)?;
    fs::rename(&half, &kept).doing(doing)?;
    Ok(kept)
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

/// As the packages' programs are built (packaging/make-packages.sh). Parted so that a path may have spaces.
fn flags() -> String {
    let script = format!("link-arg=-Wl,-T,{}", workspace_root().join("packaging/guest.ld").display());
    ["-C", "target-feature=+crt-static", "-C", &script, "-C", "link-arg=-Wl,--no-eh-frame-hdr"].join("\u{1f}")
}

fn build(package: &str, what: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--profile", "guest", "--target", TARGET, "-p", package])
        .args(what)
        .arg("--target-dir")
        .arg(target_dir())
        .env("CARGO_ENCODED_RUSTFLAGS", flags())
        .env_remove("CARGO_TARGET_DIR")
        .current_dir(workspace_root())
        .stdin(Stdio::null());
    let output = command.output().doing(|| format!("running cargo to build {package} for the guests"))?;
    require_success(&["cargo", "build", "--profile", "guest", "-p", package], output).map(drop)
}
