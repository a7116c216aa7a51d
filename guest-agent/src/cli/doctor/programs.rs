//! Hooks and command probes: are they there, may they run, and does the agent see them too.

use super::{Finding, fail, ok, under, warn};
use coms_agent::config::{Config, Probe};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// `eyes`: the root as the daemon sees it.
pub(super) fn check(root: &Path, eyes: &Path, config: &Config) -> Vec<Finding> {
    let hooks = config.hooks.iter().filter_map(|h| Some(("hook".to_owned(), h.command.first()?)));
    let probes = config.workloads.iter().filter_map(|w| match &w.probe {
        Probe::Command(argv) => Some((format!("probe {}", w.name), argv.first()?)),
        Probe::Http(_) | Probe::Tcp(_) | Probe::Plugin(_) => None,
    });
    hooks.chain(probes).map(|(check, program)| one(check, root, eyes, Path::new(program))).collect()
}

fn one(check: String, root: &Path, eyes: &Path, program: &Path) -> Finding {
    let shown = program.display();
    let (file, seen) = (under(root, program), under(eyes, program));
    let Ok(meta) = file.metadata() else {
        return fail(check, format!("{shown} does not exist"), "install it, or mend the command");
    };
    if !seen.exists() {
        let what = format!(
            "{shown} exists, but the agent does not see it (its unit hides home directories and /tmp)"
        );
        return fail(check, what, "put it into /etc/coms/hooks or /usr/local/bin");
    }
    let mode = meta.permissions().mode();
    if !meta.is_file() || mode & 0o111 == 0 {
        let what = if meta.is_file() { "is not executable" } else { "is no file" };
        return fail(check, format!("{shown} {what}"), format!("chmod +x {shown}"));
    }
    if let Err(why) = runnable(root, &file) {
        return fail(
            check,
            format!("{shown} {why}"),
            "begin it with #! and an interpreter that is installed, such as #!/bin/sh",
        );
    }
    if mode & 0o022 != 0 {
        let what = format!("{shown} can be written by others than its owner, and runs as the agent");
        return warn(check, what, format!("chmod go-w {shown}"));
    }
    ok(check, format!("{shown} can run"))
}

/// Whether the kernel would start it; why not.
fn runnable(root: &Path, file: &Path) -> Result<(), String> {
    let mut head = Vec::new();
    // Executable for its owner only: whoever may not read it cannot tell.
    let Ok(open) = File::open(file) else { return Ok(()) };
    let _ = open.take(256).read_to_end(&mut head);
    if head.starts_with(b"\x7fELF") {
        return Ok(());
    }
    let Some(rest) = head.strip_prefix(b"#!") else {
        return Err("is neither a program nor begins with #!".to_owned());
    };
    let line = rest.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line).into_owned();
    let interpreter = PathBuf::from(line.split_whitespace().next().unwrap_or_default());
    if interpreter.is_absolute() && under(root, &interpreter).exists() {
        return Ok(());
    }
    Err(format!(
        "wants the interpreter \"{}\", which does not exist",
        interpreter.display().to_string().escape_debug()
    ))
}
