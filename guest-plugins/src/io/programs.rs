//! What keeps a right configuration from running: users that are missing, programs that are not there or that their user may
//! not run. Looked at with the eyes of who asks; where they do not reach nothing is said.

use super::process::PATH;
use super::users::{self, RunAs};
use crate::config::{Config, Kind, Plugin, Program};
use crate::reading::{Problem, plain_bytes};
use rustix::fs::getxattr;
use serde::Serialize;
use std::fs::{self, File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Something that keeps a plugin from running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Which plugin's.
    pub plugin: String,
    /// What, and how to mend it.
    #[serde(flatten)]
    pub problem: Problem,
}

/// Of all plugins. `installed`: the configuration is the unit's own.
pub fn warnings(config: &Config, installed: bool) -> Vec<Warning> {
    let of = |p: &Plugin| {
        let name = p.name.clone();
        problems(p, installed).into_iter().map(move |problem| Warning { plugin: name.clone(), problem })
    };
    config.plugins.iter().flat_map(of).collect()
}

/// Of one plugin.
pub fn problems(plugin: &Plugin, installed: bool) -> Vec<Problem> {
    let program = match &plugin.kind {
        Kind::Nagios(check) => &check.program,
        Kind::Execd(execd) => &execd.program,
        Kind::OpenMetrics(_) | Kind::StatsD(_) => return Vec::new(),
    };
    let (user, missing) = match users::user(&program.user) {
        Ok(user) => (Some(user), None),
        Err(problem) => (None, Some(problem)),
    };
    missing.into_iter().chain(look(program, user.as_ref(), installed)).collect()
}

fn look(program: &Program, user: Option<&RunAs>, installed: bool) -> Option<Problem> {
    let path = Path::new(program.argv.first()?);
    let shown = plain_bytes(path.as_os_str().as_encoded_bytes());
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Some(Problem::new(
                format!("{shown} is not there"),
                "mend the path in `command`, or install it",
            ));
        }
        // Who asks may not see it; its user may.
        Err(_) => return None,
    };
    if !meta.is_file() {
        return Some(Problem::new(format!("{shown} is no file"), "`command` begins with a program"));
    }
    if meta.permissions().mode() & 0o111 == 0 {
        return Some(Problem::new(format!("{shown} is not executable"), format!("chmod +x {shown}")));
    }
    if installed && (path.starts_with("/tmp") || path.starts_with("/var/tmp")) {
        let what = format!("{shown}: the unit has a /tmp and a /var/tmp of its own, where it is not");
        return Some(Problem::new(what, "put it into /etc/coms/plugins"));
    }
    let head = head(path);
    let is_script = head.as_ref().is_none_or(|h| !h.starts_with(b"\x7fELF"));
    if let Some(user) = user
        && let Some(problem) = unreachable(path, &meta, user, &program.user, is_script)
    {
        return Some(problem);
    }
    head.and_then(|h| not_begun(&h, &shown))
}

/// Its first bytes, as far as who asks may read them.
fn head(path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path).ok()?.take(256).read_to_end(&mut head).ok()?;
    Some(head)
}

/// Whether the kernel would not begin it, though it is executable.
fn not_begun(head: &[u8], shown: &str) -> Option<Problem> {
    const RIGHT: &str = "begin it with #! and an interpreter that is installed, such as #!/bin/sh";
    if head.starts_with(b"\x7fELF") {
        return None;
    }
    let Some(rest) = head.strip_prefix(b"#!") else {
        return Some(Problem::new(format!("{shown} is neither a program nor begins with #!"), RIGHT));
    };
    let line = String::from_utf8_lossy(rest.split(|b| *b == b'\n').next().unwrap_or_default());
    if line.ends_with('\r') {
        let mend = format!("sed -i 's/\\r$//' {shown}");
        return Some(Problem::new(format!("the lines of {shown} end as those of Windows do"), mend));
    }
    let mut words = line.split_whitespace();
    let interpreter = Path::new(words.next().unwrap_or_default());
    let found = match (interpreter.file_name().and_then(|n| n.to_str()), words.next()) {
        (Some("env"), Some(name)) if !name.starts_with('-') && !name.contains(['=', '/']) => {
            PATH.split(':').any(|dir| Path::new(dir).join(name).exists())
        }
        _ => interpreter.exists(),
    };
    let what = || format!("{shown} wants \"{}\", which is not there", plain_bytes(line.trim().as_bytes()));
    (!found).then(|| Problem::new(what(), RIGHT))
}

const READ: u32 = 4;
const EXECUTE: u32 = 1;

/// What is in the way of its user: a directory that it may not enter, or the file.
fn unreachable(path: &Path, meta: &Metadata, user: &RunAs, name: &str, is_script: bool) -> Option<Problem> {
    // Where links lead to, too.
    let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let dirs = path.ancestors().skip(1).chain(real.ancestors().skip(1));
    let closed: Option<PathBuf> = dirs
        .filter(|dir| fs::metadata(dir).is_ok_and(|meta| !may(dir, &meta, user, EXECUTE)))
        .map(Path::to_owned)
        .last();
    let shown = |path: &Path| plain_bytes(path.as_os_str().as_encoded_bytes());
    if let Some(dir) = closed {
        let what = format!("{}: {name} may not enter {}", shown(path), shown(&dir));
        return Some(Problem::new(what, "put it into /etc/coms/plugins, or name another `user`"));
    }
    let bits = if is_script { READ | EXECUTE } else { EXECUTE };
    (!may(path, meta, user, bits)).then(|| {
        let verb = if is_script { "read and execute" } else { "execute" };
        let mode = if is_script { "a+rx" } else { "a+x" };
        let what = format!("{name} may not {verb} {}", shown(path));
        Problem::new(what, format!("chmod {mode} {}, or name another `user`", shown(path)))
    })
}

/// By its mode. One with an access control list may let in whom its mode does not.
fn may(path: &Path, meta: &Metadata, user: &RunAs, bits: u32) -> bool {
    let mode = meta.mode();
    let of = if meta.uid() == user.uid {
        mode >> 6
    } else if meta.gid() == user.gid || user.groups.contains(&meta.gid()) {
        mode >> 3
    } else {
        mode
    };
    of & bits == bits || getxattr(path, "system.posix_acl_access", &mut [0u8; 4096]).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program with this text and mode, in a directory with that mode; what is said of it.
    fn of(text: &str, mode: u32, dir_mode: u32) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let (inner, path) = (dir.path().join("inner"), dir.path().join("inner/program"));
        fs::create_dir(&inner).unwrap();
        fs::write(&path, text).unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set(&path, mode);
        set(dir.path(), 0o755);
        set(&inner, dir_mode);
        let program = Program {
            argv: vec![path.display().to_string()],
            user: "nobody".into(),
            env: Default::default(),
            memory_mib: 0,
            processes: 1,
        };
        // Neither owner nor group of what the test makes.
        let nobody = RunAs { uid: 4_000_000_000, gid: 4_000_000_000, groups: vec![] };
        let problem = look(&program, Some(&nobody), false);
        problem.map(|p| format!("{}: {}", p.what, p.mend))
    }

    #[test]
    fn what_keeps_a_program_from_running_is_told() {
        let script = "#!/bin/sh\ntrue\n";
        assert_eq!(of(script, 0o755, 0o755), None);
        assert_eq!(of("#!/usr/bin/env sh\n", 0o755, 0o755), None);
        for (text, mode, dir_mode, words) in [
            (script, 0o644, 0o755, "is not executable: chmod +x"),
            (script, 0o711, 0o755, "may not read and execute"),
            (script, 0o755, 0o700, "nobody may not enter"),
            ("\x7fELF", 0o744, 0o755, "may not execute"),
            ("echo x\n", 0o755, 0o755, "neither a program"),
            ("#!/no/such/shell -e\n", 0o755, 0o755, "\"/no/such/shell -e\", which is not there"),
            ("#!/usr/bin/env no-such-program\n", 0o755, 0o755, "is not there"),
            ("#!/bin/sh\r\ntrue\r\n", 0o755, 0o755, "Windows"),
        ] {
            let said = of(text, mode, dir_mode).unwrap_or_default();
            assert!(said.contains(words), "{text:?} {mode:o} {dir_mode:o}: {said}");
        }
    }

    #[test]
    fn a_missing_program_and_a_missing_user_are_both_told() {
        let text = "[[plugin]]\nname = \"p\"\nkind = \"nagios\"\nuser = \"no-such-user\"\ncommand = [\"/no/such/check\"]\n\
                    [[plugin]]\nname = \"s\"\nkind = \"statsd\"\nlatency = \"x\"\nlisten = \"127.0.0.1:8125\"\n";
        let config = Config::parse(text, Path::new("x")).unwrap();
        let told: Vec<_> = warnings(&config, true).into_iter().map(|w| (w.plugin, w.problem.what)).collect();
        let of = |what: &str| ("p".to_owned(), what.to_owned());
        assert_eq!(told, [of("there is no user no-such-user"), of("/no/such/check is not there")]);
    }
}
