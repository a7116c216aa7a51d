//! `coms-bom PACKAGE BOM LICENCES` writes what a package's programs are made of: a CycloneDX bill of materials, and the
//! licences of all crates in them, each text once. `make packages` calls it.
//!
//! Crates that are only needed to build (build scripts' and macros') are in no program and not listed.

mod bom;
mod cargo;
mod licences;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [package, bom, licences] = args.as_slice() else {
        eprintln!(
            "coms-bom: usage: coms-bom PACKAGE BOM LICENCES, for example: coms-bom coms-agent coms-agent.cdx.json \
             licences.txt"
        );
        return ExitCode::from(2);
    };
    match write(&package.display().to_string(), bom, licences) {
        Ok(count) => {
            println!("{}: {count} crates, {}, {}", package.display(), bom.display(), licences.display());
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("coms-bom: {}: {e}", package.display());
            ExitCode::FAILURE
        }
    }
}

fn write(package: &str, bom: &Path, licences: &Path) -> Result<usize> {
    let tree = cargo::tree(package)?;
    let facts = cargo::facts()?;
    let write = |path: &Path, text: String| {
        std::fs::write(path, text).map_err(|e| format!("writing {}: {e}", path.display()))
    };
    write(bom, serde_json::to_string_pretty(&bom::bom(&tree, &facts, made_at()?)?)? + "\n")?;
    write(licences, licences::licences(&tree, &facts)?)?;
    Ok(tree.crates.len())
}

/// The moment that all packages of one commit bear, so that the same source makes the same bytes.
fn made_at() -> Result<jiff::Timestamp> {
    let seconds = std::env::var("SOURCE_DATE_EPOCH")
        .map_err(|_| "SOURCE_DATE_EPOCH is not set: seconds since 1970, such as of the last commit")?;
    let seconds = seconds.parse().map_err(|e| format!("SOURCE_DATE_EPOCH={seconds}: {e}"))?;
    Ok(jiff::Timestamp::from_second(seconds)?)
}
