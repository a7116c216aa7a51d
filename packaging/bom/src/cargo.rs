//! What cargo knows: which crates are linked into a package's programs, and what each of them is.

use super::Result;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// One crate in one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    pub name: String,
    pub version: String,
}

/// A package and all that is linked into it.
#[derive(Debug)]
pub struct Tree {
    pub root: Crate,
    /// Without the root.
    pub crates: BTreeSet<Crate>,
    pub needs: BTreeMap<Crate, BTreeSet<Crate>>,
}

/// What is known of a crate.
#[derive(Debug, Clone)]
pub struct Facts {
    pub licence: String,
    pub dir: PathBuf,
    /// Of the crate's archive, SHA-256; none for those of this workspace.
    pub checksum: Option<String>,
}

fn cargo(args: &[&str]) -> Result<String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(program).args(args).output().map_err(|e| format!("cargo: {e}"))?;
    if !out.status.success() {
        let why = String::from_utf8_lossy(&out.stderr).into_owned();
        return Err(format!("cargo {}: {}", args.join(" "), why.trim()).into());
    }
    Ok(String::from_utf8(out.stdout)?)
}

/// With the features that this package's own build has; `cargo metadata` knows only those of the whole workspace.
pub fn tree(package: &str) -> Result<Tree> {
    let edges = "normal,no-proc-macro";
    parse_tree(&cargo(&[
        "tree",
        "--locked",
        "--package",
        package,
        "--edges",
        edges,
        "--target",
        TARGET,
        "--prefix",
        "depth",
        "--format",
        " {p}",
    ])?)
}

/// Lines like `1 serde v1.0.228` and `0 coms-agent v0.1.0 (/src/guest-agent)`: depth, name, version.
fn parse_tree(text: &str) -> Result<Tree> {
    let mut above: Vec<Crate> = Vec::new();
    let mut crates = BTreeSet::new();
    let mut needs: BTreeMap<Crate, BTreeSet<Crate>> = BTreeMap::new();
    for line in text.lines() {
        let (depth, this) =
            parse_line(line).ok_or_else(|| format!("not understood in cargo's tree: {line:?}"))?;
        above.truncate(depth);
        if let Some(parent) = above.last() {
            needs.entry(parent.clone()).or_default().insert(this.clone());
            crates.insert(this.clone());
        }
        needs.entry(this.clone()).or_default();
        above.push(this);
    }
    let root = above.into_iter().next().ok_or("cargo's tree is empty")?;
    Ok(Tree { root, crates, needs })
}

fn parse_line(line: &str) -> Option<(usize, Crate)> {
    let mut words = line.split_whitespace();
    let depth = words.next()?.parse().ok()?;
    let name = words.next()?.to_owned();
    let version = words.next()?.strip_prefix('v')?.to_owned();
    Some((depth, Crate { name, version }))
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

pub fn facts() -> Result<BTreeMap<Crate, Facts>> {
    let metadata: Metadata =
        serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--locked"])?)?;
    let lock = cargo(&["locate-project", "--workspace", "--message-format", "plain"])?;
    let lock = PathBuf::from(lock.trim()).with_file_name("Cargo.lock");
    let lock = std::fs::read_to_string(&lock).map_err(|e| format!("{}: {e}", lock.display()))?;
    let lock: Lock = toml::from_str(&lock)?;
    let sums: BTreeMap<Crate, Option<String>> =
        lock.package.into_iter().map(|p| (Crate { name: p.name, version: p.version }, p.checksum)).collect();
    let facts = metadata.packages.into_iter().map(|p| {
        let this = Crate { name: p.name, version: p.version };
        let checksum = sums.get(&this).cloned().flatten();
        // Before there were expressions, a slash meant "or".
        let licence =
            p.license.ok_or_else(|| format!("{} names no licence", this.name))?.replace('/', " OR ");
        let dir = p.manifest_path.parent().map(PathBuf::from).unwrap_or_default();
        Ok((this, Facts { licence, dir, checksum }))
    });
    facts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_with_a_crate_that_is_needed_twice() {
        let text = "0 a v1.0.0 (/src/a)\n1 b v2.0.0\n2 c v3.1.0\n1 d v4.0.0\n2 c v3.1.0 (*)\n";
        let tree = parse_tree(text).unwrap();
        let named = |name: &str| tree.needs.keys().find(|c| c.name == name).unwrap();
        assert_eq!((tree.root.name.as_str(), tree.crates.len()), ("a", 3));
        for (from, to) in [("a", "b"), ("a", "d"), ("b", "c"), ("d", "c")] {
            assert!(tree.needs[named(from)].contains(named(to)), "{from} needs {to}");
        }
        assert!(tree.needs[named("c")].is_empty());
        assert!(parse_tree("1b v1").is_err() && parse_tree("").is_err());
    }
}
