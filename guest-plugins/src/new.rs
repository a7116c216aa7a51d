//! `coms plugin new`: the good examples, under the customer's name.

use crate::args::{Args, Lang, New};
use serde_json::json;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const SHELL: &str = include_str!("../../packaging/examples/plugins/good.sh");
const PYTHON: &str = include_str!("../../packaging/examples/plugins/good.py");
const RUST: &str = include_str!("../library/examples/good.rs");
const LIBRARY: &str = include_str!("../library/src/lib.rs");
/// What the examples are called inside.
const NAME: &str = "good";

pub(crate) fn write(args: &Args, wanted: &New) -> ExitCode {
    let name = &wanted.name;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !(1..=64).contains(&name.len()) || !name.chars().all(plain) || name.starts_with('-') {
        crate::complain(
            args,
            &format!("\"{}\" can be no name: letters, digits, - and _", name.escape_debug()),
        );
        return ExitCode::from(2);
    }
    let dir = wanted.dir.canonicalize().unwrap_or_else(|_| wanted.dir.clone());
    match files(&dir, name, wanted.lang) {
        Ok((written, program)) => {
            let shown: Vec<_> = written.iter().map(|p| p.display().to_string()).collect();
            let text = format!("wrote {}\n\n{}", shown.join(", "), next(args, name, &program, wanted.lang));
            crate::say(args, &json!({ "ok": true, "written": shown, "command": program }), &text);
            ExitCode::SUCCESS
        }
        Err((path, e)) => {
            let hint = if e.kind() == io::ErrorKind::AlreadyExists { "; it is not written over" } else { "" };
            crate::complain(args, &format!("{}: cannot be written: {e}{hint}", path.display()));
            ExitCode::FAILURE
        }
    }
}

type Written = (Vec<PathBuf>, PathBuf);

fn files(dir: &Path, name: &str, lang: Lang) -> Result<Written, (PathBuf, io::Error)> {
    let named = |text: &str| text.replace(NAME, name);
    let directory = |path: &Path| fs::create_dir_all(path).map_err(|e| (path.to_owned(), e));
    match lang {
        Lang::Shell | Lang::Python => {
            directory(dir)?;
            let path = dir.join(name);
            let text = if lang == Lang::Shell { SHELL } else { PYTHON };
            put(&path, &named(text), 0o755)?;
            Ok((vec![path.clone()], path))
        }
        Lang::Rust => {
            let top = dir.join(name);
            let library = top.join("coms-plugin");
            directory(&top.join("src"))?;
            directory(&library.join("src"))?;
            let manifest = |name: &str, dependency: &str| {
                format!(
                    "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\nrust-version = \"1.88\"\n\n\
                     [dependencies]\n{dependency}\n"
                )
            };
            // The library comes along: it is at no registry.
            let files = [
                ("Cargo.toml", manifest(name, "coms-plugin = { path = \"coms-plugin\" }\n\n[workspace]")),
                ("src/main.rs", named(RUST)),
                ("coms-plugin/Cargo.toml", manifest("coms-plugin", "serde_json = \"1\"")),
                ("coms-plugin/src/lib.rs", LIBRARY.to_owned()),
            ];
            let mut written = Vec::new();
            for (file, text) in files {
                put(&top.join(file), &text, 0o644)?;
                written.push(top.join(file));
            }
            let program = top.join("target/release").join(name);
            Ok((written, program))
        }
    }
}

fn put(path: &Path, text: &str, mode: u32) -> Result<(), (PathBuf, io::Error)> {
    use std::io::Write;
    let told = |e| (path.to_owned(), e);
    let mut file = fs::File::create_new(path).map_err(told)?;
    file.write_all(text.as_bytes()).map_err(told)?;
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(told)
}

/// What is to be done with it.
fn next(args: &Args, name: &str, program: &Path, lang: Lang) -> String {
    let config = args.config.as_deref().unwrap_or(Path::new("/etc/coms/plugins.toml")).display();
    let with = args.config.as_ref().map(|c| format!(" --config {}", c.display())).unwrap_or_default();
    // What it measures until somebody puts something else in its place.
    let target = match lang {
        Lang::Shell => "",
        Lang::Python => ", \"127.0.0.1\", \"80\"",
        Lang::Rust => ", \"127.0.0.1:80\"",
    };
    let build = match lang {
        Lang::Shell | Lang::Python => "",
        Lang::Rust => "Build it there: cargo build --release. ",
    };
    format!(
        "{build}It runs as the user of [run], coms-probe unless said otherwise, which must be able to read and execute it.\n\n\
         {config}:\n  [[plugin]]\n  name = \"{name}\"\n  kind = \"execd\"\n  command = [\"{}\"{target}]\n\n\
         /etc/coms/agent.toml:\n  [[workload]]\n  name = \"{name}\"\n  probe = {{ plugin = \"{name}\" }}\n  interval_ms = 5000\n  \
         slower_than_factor = 2.0\n\n\
         Then: sudo coms plugin{with} test {name}\n      sudo systemctl reload coms-plugins coms-agent\n      coms plugin list",
        program.display()
    )
}
