//! Who is at the other end of the socket, and what they may do.
//!
//! The socket itself is open to everybody (0666) and the daemon decides: a file has one group, but two groups may
//! come in; and who may not is told what would help, instead of "permission denied".
//!
//! Who it is, the kernel recorded when they connected (SO_PEERCRED, SO_PEERGROUPS). Not /proc/PID/status: by the
//! time it is read the number may be another process's, or the same process may have become a set-uid program.
//! Not the user's groups by name: those are what the next log-in would have, not what this one has.
//!
//! Groups are looked up in /etc/group: a static program cannot load what a directory service (LDAP, sssd) needs. A
//! group from there can be given by its number.

use super::kernel::peer_groups;
use crate::config::Access;
use rustix::process::geteuid;
use std::fs;
use std::io;
use std::path::Path;
use tokio::net::UnixStream;

/// What somebody may do, each including the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Not even look.
    Nothing,
    /// Look.
    Status,
    /// Look, and speak for plugins.
    Report,
    /// Look, and ask for moves.
    Change,
}

/// Somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The effective user.
    pub uid: u32,
    /// All groups, the primary one first.
    pub groups: Vec<u32>,
}

impl Peer {
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let mut groups = vec![credentials.gid()];
        groups.extend(peer_groups(stream)?);
        Ok(Self { uid: credentials.uid(), groups })
    }
}

/// The groups as they stand on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doors {
    access: Access,
    status: Option<u32>,
    change: Option<u32>,
    plugins: Option<u32>,
    own_uid: u32,
}

impl Doors {
    /// Looks the groups up. `groups` is /etc/group, but for tests.
    pub fn new(access: &Access, groups: &Path) -> Self {
        let table = fs::read_to_string(groups).unwrap_or_default();
        Self {
            status: group_id(&table, &access.status_group),
            change: group_id(&table, &access.change_group),
            plugins: group_id(&table, &access.plugins_group),
            access: access.clone(),
            own_uid: geteuid().as_raw(),
        }
    }

    /// What they may do. A group that does not exist has no members; root, and whoever the agent runs as, may all.
    pub fn right(&self, peer: &Peer) -> Right {
        let is_in = |group: Option<u32>| group.is_some_and(|g| peer.groups.contains(&g));
        if peer.uid == 0 || peer.uid == self.own_uid || is_in(self.change) {
            Right::Change
        } else if is_in(self.plugins) {
            Right::Report
        } else if is_in(self.status) {
            Right::Status
        } else {
            Right::Nothing
        }
    }

    /// What to tell somebody who lacks this right.
    pub fn refusal(&self, wanted: Right) -> String {
        let (what, group, exists) = match wanted {
            Right::Nothing | Right::Status => ("to look", &self.access.status_group, self.status.is_some()),
            Right::Report => ("to speak for plugins", &self.access.plugins_group, self.plugins.is_some()),
            Right::Change => ("to change anything", &self.access.change_group, self.change.is_some()),
        };
        if exists {
            format!(
                "{what}, you must be a member of {group}: sudo usermod -aG {group} \"$USER\", then log in again"
            )
        } else {
            format!(
                "{what}, you must be root: there is no group {group} (sudo groupadd --system {group}, then sudo systemctl reload coms-agent)"
            )
        }
    }
}

/// The number of a group, given by name or number. `table` is /etc/group.
pub fn group_id(table: &str, group: &str) -> Option<u32> {
    let named = table.lines().map(|l| l.split(':')).find_map(|mut fields| {
        (fields.next() == Some(group)).then(|| fields.nth(1).and_then(|id| id.parse().ok())).flatten()
    });
    named.or_else(|| group.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doors(table: &str) -> Doors {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), table).unwrap();
        let access = Access {
            status_group: "coms".into(),
            change_group: "coms-admin".into(),
            plugins_group: "coms-plugins".into(),
        };
        Doors { own_uid: 700, ..Doors::new(&access, file.path()) }
    }

    fn right(doors: &Doors, uid: u32, groups: &[u32]) -> Right {
        doors.right(&Peer { uid, groups: groups.to_vec() })
    }

    #[test]
    fn members_look_admins_change_and_strangers_do_neither() {
        let doors = doors("root:x:0:\ncomsx:x:1:\ncoms:x:990:ann\ncoms-admin:x:991:\ncoms-plugins:x:992:\n");
        assert_eq!(right(&doors, 1000, &[1000, 990]), Right::Status);
        assert_eq!(right(&doors, 1000, &[990]), Right::Status, "as the primary group too");
        assert_eq!(right(&doors, 1000, &[1000, 27, 991]), Right::Change);
        assert_eq!(right(&doors, 1000, &[1000, 0, 1]), Right::Nothing, "root's group is not root");
        assert_eq!(right(&doors, 998, &[992]), Right::Report);
        assert!(right(&doors, 998, &[992]) < Right::Change, "who speaks for plugins moves nothing by itself");
        assert!(right(&doors, 1000, &[990]) < Right::Report, "who may look speaks for no plugin");
        assert_eq!(right(&doors, 0, &[0]), Right::Change);
        assert_eq!(right(&doors, 700, &[700]), Right::Change, "whoever it runs as");
        assert!(doors.refusal(Right::Change).contains("sudo usermod -aG coms-admin"));
        assert!(doors.refusal(Right::Status).contains("member of coms:"));
    }

    #[test]
    fn groups_that_do_not_exist_leave_it_to_root() {
        let doors = doors("root:x:0:\nbroken\ncoms:x:many:\n");
        for groups in [&[0, 990, 991, u32::MAX][..], &[]] {
            assert_eq!(right(&doors, 1000, groups), Right::Nothing);
        }
        assert_eq!(right(&doors, 0, &[0]), Right::Change);
        assert!(doors.refusal(Right::Change).contains("groupadd --system coms-admin"));
    }

    #[test]
    fn a_group_may_be_a_number() {
        assert_eq!(group_id("", "4711"), Some(4711));
        assert_eq!(group_id("4711:x:12:\n", "4711"), Some(12), "a name that looks like one comes first");
        assert_eq!(group_id("", "-1"), None);
        assert_eq!(group_id("", "coms"), None);
    }
}
