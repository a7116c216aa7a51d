//! Who is at the other end of the control socket, and what they may do. The same rules as at the agent's socket
//! (guest-agent/src/io/peer.rs has the reasons at length), said again here because the two programs share the wire
//! and nothing else.
//!
//! The socket is open to everybody (0666) and the daemon decides, by what the kernel recorded when they connected:
//! a file has one group, but two may come in, and who may not is told what would help. Groups are those of
//! /etc/group, or numbers.

use super::kernel::peer_groups;
use crate::config::Access;
use rustix::process::geteuid;
use std::io;
use std::path::Path;
use tokio::net::UnixStream;

/// Where groups are listed.
pub const GROUPS: &str = "/etc/group";

/// What somebody may do, each including the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Not even look.
    Nothing,
    /// Look.
    Status,
    /// Look, and move VMs.
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

/// The two groups as they stand on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doors {
    access: Access,
    status: Option<u32>,
    change: Option<u32>,
    own_uid: u32,
}

impl Doors {
    /// Looks the groups up. `groups` is [`GROUPS`], but for tests.
    pub fn new(access: &Access, groups: &Path) -> Self {
        let table = std::fs::read_to_string(groups).unwrap_or_default();
        Self {
            status: group_id(&table, &access.status_group),
            change: group_id(&table, &access.change_group),
            access: access.clone(),
            own_uid: geteuid().as_raw(),
        }
    }

    /// What they may do. A group that does not exist has no members; root, and whoever the broker runs as, may all.
    pub fn right(&self, peer: &Peer) -> Right {
        let is_in = |group: Option<u32>| group.is_some_and(|g| peer.groups.contains(&g));
        if peer.uid == 0 || peer.uid == self.own_uid || is_in(self.change) {
            Right::Change
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
            Right::Change => ("to change anything", &self.access.change_group, self.change.is_some()),
        };
        if exists {
            format!(
                "{what}, you must be a member of {group}: sudo usermod -aG {group} \"$USER\", then log in again"
            )
        } else {
            format!(
                "{what}, you must be root: there is no group {group} (sudo groupadd --system {group}, then sudo comsctl reload)"
            )
        }
    }

    /// The groups that no line of /etc/group knows.
    pub fn missing(&self) -> Vec<&str> {
        let both = [(&self.access.status_group, self.status), (&self.access.change_group, self.change)];
        both.into_iter().filter(|(_, id)| id.is_none()).map(|(name, _)| name.as_str()).collect()
    }
}

/// The number of a group, given by name or number. `table` is /etc/group.
fn group_id(table: &str, group: &str) -> Option<u32> {
    let named = table.lines().map(|l| l.split(':')).find_map(|mut fields| {
        (fields.next() == Some(group)).then(|| fields.nth(1).and_then(|id| id.parse().ok())).flatten()
    });
    named.or_else(|| group.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doors(table: &str, status_group: &str) -> Doors {
        let file = std::env::temp_dir().join(format!("coms-groups-{:x}", rand::random::<u64>()));
        std::fs::write(&file, table).unwrap();
        let access = Access { status_group: status_group.into(), change_group: "coms-admin".into() };
        let doors = Doors { own_uid: 700, ..Doors::new(&access, &file) };
        std::fs::remove_file(file).unwrap();
        doors
    }

    fn right(doors: &Doors, uid: u32, groups: &[u32]) -> Right {
        doors.right(&Peer { uid, groups: groups.to_vec() })
    }

    #[test]
    fn members_look_admins_change_and_strangers_do_neither() {
        let doors = doors("root:x:0:\ncomsx:x:1:\ncoms:x:990:ann\ncoms-admin:x:991:\n", "coms");
        assert_eq!(right(&doors, 1000, &[1000, 990]), Right::Status);
        assert_eq!(right(&doors, 1000, &[990]), Right::Status, "as the primary group too");
        assert_eq!(right(&doors, 1000, &[1000, 27, 991]), Right::Change);
        assert_eq!(right(&doors, 1000, &[1000, 0, 1]), Right::Nothing, "root's group is not root");
        assert_eq!(right(&doors, 0, &[0]), Right::Change);
        assert_eq!(right(&doors, 700, &[700]), Right::Change, "whoever it runs as");
        assert!(doors.refusal(Right::Change).contains("sudo usermod -aG coms-admin"));
        assert!(doors.refusal(Right::Status).contains("member of coms:"));
        assert!(doors.missing().is_empty());
    }

    #[test]
    fn groups_that_do_not_exist_leave_it_to_root() {
        let doors = doors("root:x:0:\nbroken\ncoms:x:many:\n", "coms");
        for groups in [&[0, 990, 991, u32::MAX][..], &[]] {
            assert_eq!(right(&doors, 1000, groups), Right::Nothing);
        }
        assert_eq!(right(&doors, 0, &[0]), Right::Change);
        assert!(doors.refusal(Right::Change).contains("groupadd --system coms-admin"));
        assert_eq!(doors.missing(), ["coms", "coms-admin"]);
    }

    #[test]
    fn a_group_may_be_a_number_and_a_name_that_looks_like_one_comes_first() {
        assert_eq!(right(&doors("", "4711"), 1000, &[4711]), Right::Status);
        assert_eq!(right(&doors("4711:x:12:\n", "4711"), 1000, &[4711]), Right::Nothing);
        assert_eq!(right(&doors("4711:x:12:\n", "4711"), 1000, &[12]), Right::Status);
    }
}
