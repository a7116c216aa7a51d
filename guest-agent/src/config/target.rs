//! Addresses and URLs of probes. Numbers and `localhost` only: the agent is linked statically so that it runs
//! on any distribution, and a static C library cannot look names up reliably. It also keeps a slow DNS server
//! out of every measurement.

use super::{Address, HttpTarget};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// `host:port` with a number or `localhost` for the host. The error says what would be right.
pub(super) fn address(text: &str) -> Result<Address, String> {
    if let Some(exact) = text.parse::<SocketAddr>().ok().filter(|a| a.port() != 0) {
        return Ok(Address(vec![exact]));
    }
    let wanted = "write it like \"127.0.0.1:5432\", \"[::1]:5432\" or \"localhost:5432\"";
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("\"{text}\" has no port: {wanted}"))?;
    let port = port.parse::<u16>().ok().filter(|p| *p != 0);
    let port = port.ok_or_else(|| format!("\"{text}\" has no port from 1 to 65535: {wanted}"))?;
    of(host, port).ok_or_else(|| {
        format!("the host of \"{text}\" is a name; names are not looked up: {wanted}, or use a command probe")
    })
}

/// A plain `http://` URL. The error says what would be right.
pub(super) fn url(text: &str) -> Result<HttpTarget, String> {
    let wanted = "write it like \"http://127.0.0.1:8080/health\"";
    let rest = text.strip_prefix("http://").ok_or_else(|| match text.split_once("://") {
        Some(("https", _)) => format!(
            "\"{text}\": https is not built in; probe the plain port behind it, or use a command probe with curl"
        ),
        Some(_) | None => format!("\"{text}\" does not begin with http://: {wanted}"),
    })?;
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    if path.bytes().any(|b| b <= b' ' || b == 0x7f) || authority.contains('@') {
        return Err(format!("\"{text}\" has a blank, a control character or a user name in it: {wanted}"));
    }
    let bare = authority.rsplit_once(':').is_none_or(|(_, port)| port.contains(']'));
    let address = if bare { address(&format!("{authority}:80"))? } else { address(authority)? };
    Ok(HttpTarget { address, host: authority.to_owned(), path: path.to_owned() })
}

fn of(host: &str, port: u16) -> Option<Address> {
    if host.eq_ignore_ascii_case("localhost") {
        return Some(Address(vec![
            (IpAddr::V4(Ipv4Addr::LOCALHOST), port).into(),
            (IpAddr::V6(Ipv6Addr::LOCALHOST), port).into(),
        ]));
    }
    host.parse::<Ipv4Addr>().ok().map(|ip| Address(vec![(ip, port).into()]))
}
