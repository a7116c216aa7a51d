//! The reference through ssh: between two hosts, each way, a port that a connection forwards.
//!
//! Server and client are Debian's, unpacked by `tests/setup.sh bench` and never installed: installed, the server would run.

use coms_lab::{Host, Process};
use coms_story::{Result, wait};

/// Where the server listens, and where QEMU does behind it.
const SSH_PORT: u16 = 7422;
const FORWARDED: u16 = 49_900;
const DIR: &str = "/etc/coms/ssh";

/// What a migrate call names as its destination's address then.
pub fn migrate_uri() -> String {
    format!("tcp://127.0.0.1:{FORWARDED}")
}

/// Both connections, until dropped.
pub struct Tunnels {
    _parts: Vec<Process>,
}

impl Tunnels {
    pub fn up(hosts: [&Host; 2]) -> Result<Tunnels> {
        let root = coms_lab::workspace_root().join("target/lab-cache/ssh/root");
        if !root.exists() {
            return Err(format!("{} is missing: run `tests/setup.sh bench`", root.display()).into());
        }
        let libraries = root.join("usr/lib/x86_64-linux-gnu").display().to_string();
        let env = [("LD_LIBRARY_PATH", libraries.as_str())];
        let mut keys = Vec::new();
        for host in hosts {
            // All of it is this host's own: accounts that may log in, by which key, and where the server keeps apart.
            let script = format!(
                "set -e; umask 077; mkdir -p {DIR}; cd {DIR}\n\
                 grep -q ^sshd: /etc/passwd || echo sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin >>/etc/passwd\n\
                 echo 'root:*:20000:0:99999:7:::' >shadow; mount --bind shadow /etc/shadow\n\
                 mkdir -p -m 755 /run/sshd\n\
                 for key in host own; do '{}' -q -t ed25519 -N '' -C '' -f $key; done\n\
                 cat host.pub; cat own.pub",
                root.join("usr/bin/ssh-keygen").display()
            );
            let made = host.run(&["sh", "-c", &script])?;
            let said = String::from_utf8_lossy(&made.stdout).into_owned();
            let both: Vec<&str> = said.lines().collect();
            match both[..] {
                [of_host, own] if made.status.success() => keys.push((of_host.to_owned(), own.to_owned())),
                _ => {
                    let why = String::from_utf8_lossy(&made.stderr);
                    return Err(format!("making ssh's keys of {}: {} {why}", host.name(), made.status).into());
                }
            }
        }
        let mut parts = Vec::new();
        for (i, host) in hosts.into_iter().enumerate() {
            let (other, (of_other, others_own)) = (hosts[1 - i], &keys[1 - i]);
            host.write_file(&format!("{DIR}/authorized_keys"), format!("{others_own}\n"))?;
            host.write_file(
                &format!("{DIR}/known_hosts"),
                format!("[{}]:{SSH_PORT} {of_other}\n", other.ip()),
            )?;
            host.write_file(&format!("{DIR}/sshd_config"), server(host))?;
            let sshd = root.join("usr/sbin/sshd");
            let args = ["-D", "-e", "-f", &format!("{DIR}/sshd_config")];
            parts.push(host.spawn(sshd, &args, &env, "sshd.log")?);
        }
        for (i, host) in hosts.into_iter().enumerate() {
            let other = hosts[1 - i];
            let log = || std::fs::read_to_string(host.log_dir().join("ssh.log")).unwrap_or_default();
            let open = |address: &str, port: u16| -> Result<bool> {
                let knock = format!(": </dev/tcp/{address}/{port}");
                Ok(host.run(&["timeout", "1", "bash", "-c", &knock])?.status.success())
            };
            wait("an ssh server", 20, || open(&other.ip().to_string(), SSH_PORT)).map_err(|e| {
                let said = std::fs::read_to_string(other.log_dir().join("sshd.log")).unwrap_or_default();
                format!("{e}: {said}")
            })?;
            let args = client(other);
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            parts.push(host.spawn(root.join("usr/bin/ssh"), &args, &env, "ssh.log")?);
            // Nobody is behind it yet; that ssh takes the connection is enough.
            wait("a port forwarded by ssh", 20, || open("127.0.0.1", FORWARDED))
                .map_err(|e| format!("{e}: {}", log()))?;
        }
        Ok(Tunnels { _parts: parts })
    }
}

fn server(host: &Host) -> String {
    format!(
        "Port {SSH_PORT}\nListenAddress {}\nHostKey {DIR}/host\nAuthorizedKeysFile {DIR}/authorized_keys\n\
         PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         UsePAM no\nUseDNS no\nAllowTcpForwarding local\nPidFile none\n",
        host.ip()
    )
}

/// With nothing of the machine's own configuration, and the cipher that both choose.
fn client(other: &Host) -> Vec<String> {
    let options = [
        "BatchMode=yes",
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=yes",
        "ExitOnForwardFailure=yes",
        "GlobalKnownHostsFile=none",
    ];
    let mut args: Vec<String> = ["-N", "-F", "none"].map(str::to_owned).into();
    args.extend(options.iter().flat_map(|o| ["-o".to_owned(), (*o).to_owned()]));
    args.extend(["-o".into(), format!("UserKnownHostsFile={DIR}/known_hosts")]);
    args.extend(["-i".into(), format!("{DIR}/own"), "-p".into(), SSH_PORT.to_string()]);
    args.extend(["-L".into(), format!("127.0.0.1:{FORWARDED}:{}:{FORWARDED}", other.ip())]);
    args.push(format!("root@{}", other.ip()));
    args
}
