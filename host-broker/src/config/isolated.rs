//! The migration network: which interface, and where the other hosts are on it.

use super::Host;
use super::check::{Wrong, wrong};
use std::net::{IpAddr, Ipv6Addr};

/// The address in `tcp://ADDRESS[:PORT]`. None: a name, another transport, or none at all.
pub(super) fn address_of(uri: &str) -> Option<IpAddr> {
    // libvirt's old spelling has no slashes.
    let rest = uri.strip_prefix("tcp:").map(|rest| rest.strip_prefix("//").unwrap_or(rest))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (address, port) = match rest.strip_prefix('[') {
        Some(v6) => {
            let (address, behind) = v6.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            (IpAddr::V6(address), if behind.is_empty() { None } else { Some(behind.strip_prefix(':')?) })
        }
        None => match rest.split_once(':') {
            Some((address, port)) => (IpAddr::V4(address.parse().ok()?), Some(port)),
            None => (IpAddr::V4(rest.parse().ok()?), None),
        },
    };
    let fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    (fits && !address.is_unspecified() && !address.is_multicast() && !address.is_loopback())
        .then_some(address)
}

/// As long as the kernel takes for a name.
fn is_interface(name: &str) -> bool {
    let ordinary = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':';
    (1..=15).contains(&name.len()) && name.bytes().all(ordinary) && name != "." && name != ".."
}

/// With an interface each peer must be somewhere on its network, as an address: a name could lead elsewhere tomorrow.
pub(super) fn check(interface: Option<String>, peers: &[Host]) -> Result<Option<String>, Wrong> {
    let Some(name) = interface else { return Ok(None) };
    if !is_interface(&name) {
        return wrong(
            "host.migration_interface",
            format!("`{}` is no network interface", name.escape_debug()),
            "write its name, as in \"mig0\" (ip link)",
        );
    }
    if let Some((i, peer)) = peers.iter().enumerate().find(|(_, p)| p.migration_address().is_none()) {
        let what = match &peer.migrate_uri {
            None => "is not set, and host.migration_interface is".to_owned(),
            Some(uri) => format!("`{}` names no address", uri.escape_debug()),
        };
        let right = "write that host's address on the migration network, as in tcp://10.9.0.2 or tcp://[fd09::2]; \
                     names are not looked up";
        return wrong(format!("hosts[{i}].migrate_uri"), what, right);
    }
    Ok(Some(name))
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;
    use std::path::Path;

    #[test]
    fn only_an_address_over_tcp_counts() {
        let is = |uri: &str, address: &str| {
            assert_eq!(address_of(uri), Some(address.parse().unwrap()), "{uri}");
        };
        is("tcp://10.9.0.2", "10.9.0.2");
        is("tcp://10.9.0.2:49999", "10.9.0.2");
        is("tcp:10.9.0.2", "10.9.0.2");
        is("tcp://[fd09::2]", "fd09::2");
        is("tcp://[fd09::2]:49999/", "fd09::2");
        for no in [
            "",
            "tcp://",
            "tcp://host2",
            "tcp://host2.example:49999",
            "rdma://10.9.0.2",
            "unix:///run/x",
            "tcp://0.0.0.0",
            "tcp://127.0.0.1",
            "tcp://[::]",
            "tcp://224.0.0.1",
            "tcp://10.9.0.2:0",
            "tcp://10.9.0.2:70000",
            "tcp://10.9.0.2:",
            "tcp://[fd09::2",
            "tcp://[fd09::2]x",
            "tcp://fd09::2",
            "tcp://10.9.0.2/x",
        ] {
            assert_eq!(address_of(no), None, "{no}");
        }
    }

    const FILE: &str = r#"
        [host]
        name = "h1"
        region = "north"
        migration_interface = "mig0"
        [[hosts]]
        name = "h2"
        region = "south"
        libvirt = "qemu+tls://h2/system"
        migrate_uri = "tcp://10.9.0.2"
    "#;

    #[test]
    fn an_interface_needs_an_address_of_every_other_host() {
        let parse = |text: &str| Config::parse(Path::new("/etc/coms/broker.toml"), text);
        let config = parse(FILE).unwrap();
        assert_eq!(config.migration_interface.as_deref(), Some("mig0"));
        assert_eq!(config.peers[0].migration_address(), Some("10.9.0.2".parse().unwrap()));
        for (from, to, key) in [
            ("\"mig0\"", "\"mig 0\"", "host.migration_interface"),
            ("\"mig0\"", "\"a/b\"", "host.migration_interface"),
            ("\"mig0\"", "\"sixteen-letters-\"", "host.migration_interface"),
            ("migrate_uri = \"tcp://10.9.0.2\"", "", "hosts[0].migrate_uri"),
            ("tcp://10.9.0.2", "tcp://h2.mig.example", "hosts[0].migrate_uri"),
        ] {
            let changed = FILE.replacen(from, to, 1);
            assert_ne!(changed, FILE, "{from}");
            let text = parse(&changed).unwrap_err().to_string();
            assert!(text.contains(&format!("`{key}`")), "{key}: {text}");
        }
        // Without an interface any URI is the operator's business, as ever.
        let free = FILE.replace("migration_interface = \"mig0\"", "").replace("10.9.0.2", "h2.mig.example");
        assert_eq!(parse(&free).unwrap().migration_interface, None);
    }
}
