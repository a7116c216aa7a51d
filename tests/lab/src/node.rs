//! A set of namespaces: what hosts, clients and the wires between them are made of.
//!
//! A *holder* (a `cat` that waits for the lab's end) keeps the namespaces alive; others enter them
//! with nsenter, threads of this process with setns.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    cpuset::Cpuset,
    error::{Doing as _, Error, Result, require_success},
    process,
    requirements::search_path,
};

/// How long a command inside a namespace may take unless told otherwise.
pub(crate) const COMMAND_TIME: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(crate) struct Node {
    name: String,
    holder: Child,
    net: File,
    own_mounts: bool,
    cpuset: Option<Cpuset>,
}

impl Node {
    /// A network namespace and nothing else.
    pub(crate) fn net_only(name: &str) -> Result<Node> {
        Node::hold(name, &["--net"], "", &[], false)
    }

    /// Network, mount and host name of its own; `binds` are (outside, inside) pairs of paths.
    pub(crate) fn host(name: &str, binds: &[(String, String)], cpuset: Option<Cpuset>) -> Result<Node> {
        // A sysfs of this network namespace, and no cgroup in sight: libvirt would otherwise find
        // the machine's own (or ask its systemd) and move guests out of our cpuset.
        let setup = r#"
            printf %s "$0" >/proc/sys/kernel/hostname
            if mountpoint -q /sys/fs/cgroup; then umount -R -l /sys/fs/cgroup; fi
            mount -t sysfs sysfs /sys
            while [ $# -gt 1 ]; do mount --bind "$1" "$2"; shift 2; done
        "#;
        let binds: Vec<&str> =
            binds.iter().flat_map(|(outside, inside)| [outside.as_str(), inside.as_str()]).collect();
        let kinds = ["--net", "--mount", "--uts", "--propagation", "private"];
        let mut node = Node::hold(name, &kinds, setup, &binds, true)?;
        node.cpuset = cpuset;
        Ok(node)
    }

    fn hold(name: &str, kinds: &[&str], setup: &str, args: &[&str], own_mounts: bool) -> Result<Node> {
        let script = format!("set -e\nip link set lo up\n{setup}\necho ready\nexec cat");
        let mut holder = Command::new("unshare")
            .args(kinds)
            .args(["--", "sh", "-c", &script, name])
            .args(args)
            .env("PATH", search_path())
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .doing(|| format!("starting unshare for {name}"))?;
        let mut answer = String::new();
        if let Some(pipe) = holder.stdout.take() {
            BufReader::new(pipe).read_line(&mut answer).doing(|| format!("starting unshare for {name}"))?;
        }
        if answer != "ready\n" {
            let mut stderr = String::new();
            if let Some(mut pipe) = holder.stderr.take() {
                let _ = pipe.read_to_string(&mut stderr);
            }
            let _ = holder.wait();
            return Err(Error::Unfit(format!(
                "could not set up the namespaces of {name}: {}",
                stderr.trim()
            )));
        }
        let path = format!("/proc/{}/ns/net", holder.id());
        let net = File::open(&path).doing(|| format!("opening {path}"))?;
        Ok(Node { name: name.to_owned(), holder, net, own_mounts, cpuset: None })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A process that is in all of the namespaces for as long as the lab lives.
    pub(crate) fn holder_pid(&self) -> u32 {
        self.holder.id()
    }

    /// A command that will run inside. Its PID stays what `spawn` says: everything here execs.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        let target = self.holder.id().to_string();
        let script = match &self.cpuset {
            // The cgroup first: from inside, the cgroup file system is not to be seen.
            Some(cpuset) => format!("echo $$ >'{}' && exec nsenter \"$@\"", cpuset.procs().display()),
            None => "exec nsenter \"$@\"".to_owned(),
        };
        command.args(["-c", &script, "coms-lab-enter", "--target", &target, "--net"]);
        if self.own_mounts {
            // Its root too: in a chroot, the mount namespace alone would lead out of it.
            command.args(["--mount", "--uts", "--root", "--wd=/"]);
        }
        command.args(["--", program]).env("PATH", search_path());
        command
    }

    /// Runs a program inside to its end; any exit status is fine.
    pub(crate) fn output(&self, argv: &[&str], stdin: Option<&str>, at_most: Duration) -> Result<Output> {
        let [program, args @ ..] = argv else {
            return Err(Error::Unfit("an empty command line".into()));
        };
        let mut command = self.command(program);
        command.args(args).stdin(Stdio::null());
        if let Some(text) = stdin {
            let (read, mut write) = std::io::pipe().doing(|| "making a pipe".into())?;
            command.stdin(read);
            let text = text.to_owned();
            // Ends with the reader, who is at most `at_most` away from his end.
            thread::spawn(move || write.write_all(text.as_bytes()));
        }
        process::run(command, argv, at_most)
    }

    /// Runs a program inside that must succeed.
    pub(crate) fn run(&self, argv: &[&str]) -> Result<Output> {
        require_success(argv, self.output(argv, None, COMMAND_TIME)?)
    }

    /// Runs `ip` commands, one a line.
    pub(crate) fn ip(&self, lines: &str) -> Result<()> {
        let argv = ["ip", "-batch", "-"];
        require_success(&argv, self.output(&argv, Some(lines), COMMAND_TIME)?).map(drop)
    }

    /// Runs `work` in a thread that is in the network namespace: a socket opened there stays there.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.net.as_fd(), Some(LinkNameSpaceType::Network))
                    .doing(|| format!("entering the network namespace of {}", self.name))?;
                Ok(work())
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
