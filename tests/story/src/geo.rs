//! A VM between two sites, and clients in countries: what the tests and the demo of following them share.

use crate::{HOSTS, Result, Settings, Stage};
use coms_lab::{GuestConfig, GuestFile, Talk, workspace_root};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Networks of Swedish and French providers; the database knows (tests/setup.sh fetches it).
pub const SWEDEN: (Ipv4Addr, u8) = (Ipv4Addr::new(2, 248, 0, 0), 24);
pub const FRANCE: (Ipv4Addr, u8) = (Ipv4Addr::new(2, 4, 0, 0), 24);
/// Where the guest has it.
pub const DATABASE: &str = "/usr/share/coms/countries.mmdb";
/// A conversation that counts little, and one that counts more.
pub const QUIET: Talk = Talk { bytes: 200, pause: Duration::from_millis(250) };
pub const BUSY: Talk = Talk { bytes: 1200, pause: Duration::from_millis(120) };

/// Two sites, the first in the region of Sweden and the second in that of France. With the step that stretches a VM's
/// network, or without any.
pub fn settings(with_step: bool) -> Settings {
    let step = workspace_root().join("packaging/network/stretch-vxlan").display().to_string();
    settings_with(if with_step { vec![step] } else { Vec::new() })
}

/// ... whose step at the other end always fails.
pub fn settings_that_fail_there() -> Settings {
    let step = workspace_root().join("packaging/network/stretch-vxlan").display().to_string();
    let script = format!("[ $1 != receive ] || exit 1; exec {step} $1");
    settings_with(["/bin/sh", "-c", &script, "step"].map(str::to_owned).to_vec())
}

fn settings_with(step: Vec<String>) -> Settings {
    let network = format!("[network]\nstep = {step:?}\nbridges = [\"guests\"]\nrelease_after_s = 5\n");
    Settings {
        sites: vec![0, 1],
        places: format!(
            "[[regions]]\nname = \"north\"\nlatitude = 59.33\nlongitude = 18.07\ncountries = [\"SE\", \"FI\", \"NO\"]\n\n\
             [[regions]]\nname = \"south\"\nlatitude = 48.86\nlongitude = 2.35\ncountries = [\"FR\", \"ES\", \"IT\"]\n\n\
             [[distances]]\nfrom = \"north\"\nto = \"south\"\nms = 40\n\n{}",
            if step.is_empty() { "" } else { network.as_str() }
        ),
        // Both sites' CPUs emulate guests here, and the line is made of threads beside them. Slowed to 40 Mbit/s it has 4.8.
        link: "min_rate_mib_s = 6\n".into(),
        ..Settings::default()
    }
}

/// Windows far shorter than anyone would want at home. `for_s`: so long most clients must be elsewhere.
pub fn agent_toml(for_s: u32) -> String {
    format!(
        "[asking]\ncooldown_s = 5\nbackoff_s = 5\nsettle_s = 4\ncheck_s = 8\n\n\
         [clients]\ndatabase = \"{DATABASE}\"\nports = [7, 19]\nsample_s = 1\nwindow_s = 10\nmin_clients = 20\nfor_s = {for_s}\n"
    )
}

/// The database, for a place in a guest.
pub fn database(place: &str) -> Result<GuestFile> {
    let path = workspace_root().join("target/lab-cache/geo/geo-whois-asn-country.mmdb");
    let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}; run tests/setup.sh", path.display()))?;
    Ok(GuestFile { path: place.into(), mode: 0o644, bytes })
}

/// A guest with the database.
pub fn guest() -> Result<GuestConfig> {
    Ok(GuestConfig { files: vec![database(DATABASE)?], ..GuestConfig::default() })
}

/// The first so many addresses of a network that a client may have.
pub fn addresses(net: (Ipv4Addr, u8), count: u32) -> Vec<Ipv4Addr> {
    (1..=count).map(|i| Ipv4Addr::from_bits(net.0.to_bits() + i)).collect()
}

/// How many stretched networks a host has.
pub fn stretched(stage: &Stage, i: usize) -> Result<usize> {
    let argv = ["ip", "-oneline", "link", "show", "type", "vxlan"];
    let output = stage.lab.host(HOSTS[i]).run(&argv)?;
    if !output.status.success() {
        return Err(format!("{argv:?} on {}: {output:?}", HOSTS[i]).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().count())
}

/// The clients' round trips before and after a move, in ms, from the guest's `effect`.
pub fn round_trips(effect: &Value) -> Option<(f64, f64)> {
    let all = effect["workloads"].as_array()?;
    let rtt = all.iter().find(|w| w["workload"] == "clients-rtt")?;
    Some((rtt["before_ms"].as_f64()?, rtt["after_ms"].as_f64()?))
}
