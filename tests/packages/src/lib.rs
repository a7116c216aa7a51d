//! What the tests of the packages share: where `make packages` left them, and README's pages, which these tests execute
//! line by line.

pub mod hosts;
pub mod machine;
pub mod pool;
mod readme;

pub use coms_story::{Result, wait};
pub use readme::{Page, as_root, page};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What `make packages` made.
#[derive(Debug, Clone)]
pub struct Packages {
    pub dir: PathBuf,
    pub agent_deb: PathBuf,
    pub plugins_deb: PathBuf,
    pub broker_deb: PathBuf,
    pub agent_rpm: PathBuf,
    pub plugins_rpm: PathBuf,
    pub broker_rpm: PathBuf,
}

/// This version's.
pub fn packages() -> Result<Packages> {
    Packages::in_dir(&coms_lab::workspace_root().join("target/packages"))
}

impl Packages {
    pub fn in_dir(dir: &Path) -> Result<Packages> {
        Ok(Packages {
            dir: dir.to_owned(),
            agent_deb: one_in(dir, "coms-agent_", ".deb")?,
            plugins_deb: one_in(dir, "coms-plugins_", ".deb")?,
            broker_deb: one_in(dir, "coms-broker_", ".deb")?,
            agent_rpm: one_in(dir, "coms-agent-", ".rpm")?,
            plugins_rpm: one_in(dir, "coms-plugins-", ".rpm")?,
            broker_rpm: one_in(dir, "coms-broker-", ".rpm")?,
        })
    }

    pub fn debs(&self) -> [&PathBuf; 3] {
        [&self.agent_deb, &self.plugins_deb, &self.broker_deb]
    }

    pub fn rpms(&self) -> [&PathBuf; 3] {
        [&self.agent_rpm, &self.plugins_rpm, &self.broker_rpm]
    }
}

/// The one file of a directory whose name begins and ends so.
pub fn one_in(dir: &Path, begin: &str, end: &str) -> Result<PathBuf> {
    let entries =
        std::fs::read_dir(dir).map_err(|e| format!("{}: {e}; run: make packages", dir.display()))?;
    let fits = |p: &PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(begin) && name.ends_with(end)
    };
    let found: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(fits).collect();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        other => Err(format!("{}: {begin}*{end}: {other:?}; run: make packages", dir.display()).into()),
    }
}

/// How a program ended: its exit status and what it printed on both outputs.
pub struct Said {
    pub status: i32,
    pub out: String,
    pub err: String,
}

/// Runs a program here, whatever its exit status.
pub fn run(argv: &[&str]) -> Result<Said> {
    let [program, args @ ..] = argv else { return Err("an empty command line".into()) };
    let out = Command::new(program)
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    Ok(Said {
        status: out.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&out.stdout).into_owned(),
        err: String::from_utf8_lossy(&out.stderr).into_owned(),
    })
}

/// Runs a program here that must succeed; what it prints.
pub fn must(argv: &[&str]) -> Result<String> {
    let said = run(argv)?;
    if said.status != 0 {
        return Err(format!("{}: exit {}: {}{}", argv.join(" "), said.status, said.out, said.err).into());
    }
    Ok(said.out)
}

/// As an argument of a program.
pub fn text(path: &Path) -> String {
    path.display().to_string()
}
