//! Users and groups by name, of /etc/passwd and /etc/group; those of a directory service by number.

use crate::reading::Problem;
use std::path::Path;

/// As whom a program runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// User.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
    /// The others.
    pub groups: Vec<u32>,
}

/// Looks a user up; why it cannot be.
pub fn user(name: &str) -> Result<RunAs, Problem> {
    let read = |file: &str| std::fs::read_to_string(Path::new(file)).unwrap_or_default();
    find(&read("/etc/passwd"), &read("/etc/group"), name)
}

/// The number of a group.
pub fn group(name: &str) -> Option<u32> {
    let table = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let mut lines = table.lines().map(|l| l.split(':').collect::<Vec<_>>());
    lines
        .find(|f| f.first() == Some(&name))
        .and_then(|f| f.get(2)?.parse().ok())
        .or_else(|| name.parse().ok())
}

fn find(passwd: &str, groups: &str, name: &str) -> Result<RunAs, Problem> {
    let fields = |l: &str| l.split(':').map(str::to_owned).collect::<Vec<_>>();
    let entry = passwd
        .lines()
        .map(fields)
        .find(|f| f.first().is_some_and(|n| n == name) || f.get(2).is_some_and(|uid| uid == name));
    let ids = |f: &Vec<String>| Some((f.get(2)?.parse().ok()?, f.get(3)?.parse().ok()?));
    let (uid, gid): (u32, u32) = match entry.as_ref().and_then(ids) {
        Some(ids) => ids,
        None => name.parse().map(|n| (n, n)).map_err(|_| {
            Problem::new(
                format!("there is no user {name}"),
                format!(
                    "name another one, `user` of [run] or of the plugin, or: sudo useradd --system {name}"
                ),
            )
        })?,
    };
    if uid == 0 {
        return Err(Problem::new("plugins do not run as root", "name another user"));
    }
    let login = entry.and_then(|f| f.into_iter().next()).unwrap_or_default();
    let member =
        |f: &Vec<String>| f.get(3).is_some_and(|m| m.split(',').any(|m| !m.is_empty() && m == login));
    let groups = groups.lines().map(fields).filter(member).filter_map(|f| f.get(2)?.parse().ok()).collect();
    Ok(RunAs { uid, gid, groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number_and_root_is_none() {
        let passwd = "root:x:0:0::/:/bin/sh\npostgres:x:105:113::/:/bin/sh\nbroken\n";
        let groups = "ssl-cert:x:110:postgres\ncoms:x:990:ann,postgres\nx:y\nnone:x:5:\n";
        let found = RunAs { uid: 105, gid: 113, groups: vec![110, 990] };
        assert_eq!(find(passwd, groups, "postgres"), Ok(found.clone()));
        assert_eq!(find(passwd, groups, "105"), Ok(found));
        assert_eq!(find(passwd, groups, "4711"), Ok(RunAs { uid: 4711, gid: 4711, groups: vec![] }));
        assert!(find(passwd, groups, "root").is_err());
        assert!(find(passwd, groups, "0").is_err());
        assert!(find(passwd, groups, "nobody").unwrap_err().what.contains("no user nobody"));
    }
}
