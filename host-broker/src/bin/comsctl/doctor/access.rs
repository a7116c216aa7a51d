//! Who may use the broker's socket.

use super::Finding;
use coms_broker::config::Access;
use coms_broker::io::peer::Doors;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The broker decides who may do what; the file must let everybody come and be told.
pub fn socket_open(socket: &Path) -> Option<Finding> {
    let mode = |path: &Path| path.metadata().ok().map(|m| m.permissions().mode() & 0o777);
    let detail = match (mode(socket)?, socket.parent().and_then(mode)) {
        (file, _) if file & 0o666 != 0o666 => {
            format!("{} has mode {file:o} instead of 666", socket.display())
        }
        (_, Some(dir)) if dir & 0o001 == 0 => {
            format!("the directory of {} has mode {dir:o}: others cannot come through", socket.display())
        }
        (_, _) => return None,
    };
    let remedy = "systemctl restart coms-broker makes it anew (the broker itself checks who may do what)";
    Some(Finding::fail("socket", detail, remedy))
}

/// `table` is /etc/group, but for tests.
pub fn groups(access: &Access, table: &Path) -> Finding {
    const CHECK: &str = "groups";
    let doors = Doors::new(access, table);
    let missing = doors.missing();
    if missing.is_empty() {
        let Access { status_group, change_group } = access;
        return Finding::ok(
            CHECK,
            format!("members of {status_group} may look, of {change_group} also change"),
        );
    }
    let make: Vec<_> = missing.iter().map(|g| format!("sudo groupadd --system {g}")).collect();
    Finding::warn(
        CHECK,
        format!("there is no group {}; what it would allow, only root may", missing.join(", nor ")),
        format!("{}; then sudo comsctl reload", make.join("; ")),
    )
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use std::fs::{self, Permissions};

    #[test]
    fn the_socket_must_be_open_and_each_group_be_there() {
        let dir = std::env::temp_dir().join(format!("coms-doctor-access-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (socket, table) = (dir.join("broker.sock"), dir.join("group"));
        assert_eq!(socket_open(&socket), None, "that it is not there is told elsewhere");
        for (file_mode, dir_mode, well) in
            [(0o666, 0o755, true), (0o660, 0o755, false), (0o666, 0o750, false)]
        {
            fs::write(&socket, "").unwrap();
            fs::set_permissions(&socket, Permissions::from_mode(file_mode)).unwrap();
            fs::set_permissions(&dir, Permissions::from_mode(dir_mode)).unwrap();
            assert_eq!(socket_open(&socket).is_none(), well, "{file_mode:o} {dir_mode:o}");
        }
        let access = Access { status_group: "coms".into(), change_group: "coms-admin".into() };
        for (text, status, word) in [
            ("coms:x:1:\ncoms-admin:x:2:\n", Status::Ok, "coms may look"),
            ("coms:x:1:\n", Status::Warn, "no group coms-admin;"),
            ("", Status::Warn, "no group coms, nor coms-admin"),
        ] {
            fs::write(&table, text).unwrap();
            let found = groups(&access, &table);
            assert!(found.status == status && found.detail.contains(word), "{found:?}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
