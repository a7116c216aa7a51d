//! Who may do what at the broker's socket: real users with real groups, against the real daemon. No VM, no libvirt;
//! here because only root can become others.

use coms_story::{Result, programs, wait};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Groups by their numbers: nothing is added to this machine's /etc/group.
const STATUS: &str = "61001";
const CHANGE: &str = "61002";
const USER: &str = "61000";

struct Daemon {
    dir: PathBuf,
    child: Child,
}

impl Daemon {
    fn start() -> Result<Daemon> {
        let dir = std::env::temp_dir().join(format!("coms-access-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755))?;
        write_config(&dir, STATUS, CHANGE)?;
        // Where others can run it, wherever this project is.
        std::fs::copy(&programs()?.comsctl, dir.join("comsctl"))?;
        let child = Command::new(&programs()?.broker)
            .arg("--config")
            .arg(dir.join("broker.toml"))
            .stderr(std::fs::File::create(dir.join("log"))?)
            .stdout(Stdio::null())
            .spawn()?;
        let daemon = Daemon { dir, child };
        wait("the socket", 10, || Ok(daemon.ask("0", "0", &["guests"])?.0 == 0))?;
        Ok(daemon)
    }

    /// Runs comsctl as this user with these groups (the first is the primary one): exit status and what it said.
    fn ask(&self, user: &str, groups: &str, args: &[&str]) -> Result<(i32, String)> {
        let primary = groups.split(',').next().unwrap_or(groups);
        let out = Command::new("setpriv")
            .args(["--reuid", user, "--regid", primary, "--groups", groups, "--"])
            .arg(self.dir.join("comsctl"))
            .arg("--socket")
            .arg(self.dir.join("broker.sock"))
            .args(args)
            .output()?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        Ok((out.status.code().unwrap_or(-1), said))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn write_config(dir: &Path, status: &str, change: &str) -> Result<()> {
    let text = format!(
        "[host]\nname = \"h1\"\nregion = \"r\"\nlibvirt = \"qemu+unix:///system?socket={0}/none\"\n[access]\n\
         status_group = \"{status}\"\nchange_group = \"{change}\"\n[paths]\nsocket = \"{0}/broker.sock\"\n\
         state = \"{0}/lib\"\n",
        dir.display()
    );
    Ok(std::fs::write(dir.join("broker.toml"), text)?)
}

#[test]
fn members_of_one_group_look_of_the_other_change_and_strangers_are_told_which_they_need() -> Result<()> {
    let daemon = Daemon::start()?;
    let stranger = format!("{USER},0,4");
    let looks = format!("{USER},{STATUS}");
    let changes = format!("{USER},27,{CHANGE}");
    for (user, groups, may_look, may_change) in [
        ("0", "0", true, true),
        (USER, STATUS, true, false),
        (USER, looks.as_str(), true, false),
        (USER, changes.as_str(), true, true),
        // The group of root is not root.
        (USER, stranger.as_str(), false, false),
    ] {
        for args in [&["guests"][..], &["hosts"], &["migrations"]] {
            let (status, said) = daemon.ask(user, groups, args)?;
            assert_eq!(status, i32::from(!may_look), "{user} {groups} {args:?}: {said}");
            assert!(may_look || said.contains(&format!("member of {STATUS}: sudo usermod")), "{said}");
        }
        for args in [&["pause"][..], &["resume"], &["reload"]] {
            let (status, said) = daemon.ask(user, groups, args)?;
            assert_eq!(status, i32::from(!may_change), "{user} {groups} {args:?}: {said}");
            let needed = if may_look { CHANGE } else { STATUS };
            assert!(may_change || said.contains(&format!("member of {needed}: sudo usermod")), "{said}");
        }
        // The right to change is asked for before anything is looked up.
        for args in [&["migrate", "no-such-vm"][..], &["cancel", "m0000000000000001"]] {
            let (status, said) = daemon.ask(user, groups, args)?;
            assert_eq!(
                (status, said.contains("usermod")),
                (1, !may_change),
                "{user} {groups} {args:?}: {said}"
            );
        }
    }
    // Groups take part in a reload, and one that is not there leaves it to root.
    write_config(&daemon.dir, "no-such-group", CHANGE)?;
    assert_eq!(daemon.ask(USER, CHANGE, &["reload"])?.0, 0);
    let (status, said) = daemon.ask(USER, STATUS, &["guests"])?;
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("no group no-such-group (sudo groupadd --system no-such-group"), "{said}");
    assert_eq!(daemon.ask("0", "0", &["guests"])?.0, 0);
    Ok(())
}
