//! The file as typed.

use super::Vetoes;
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Typed {
    pub host: TypedHost,
    #[serde(default)]
    pub hosts: Vec<TypedPeer>,
    #[serde(default)]
    pub guests: TypedGuests,
    #[serde(default)]
    pub limits: TypedLimits,
    #[serde(default)]
    pub notice: TypedNotice,
    #[serde(default)]
    pub random: TypedRandom,
    #[serde(default)]
    pub encryption: TypedEncryption,
    #[serde(default)]
    pub regions: Vec<TypedRegion>,
    #[serde(default)]
    pub distances: Vec<TypedDistance>,
    #[serde(default)]
    pub link: TypedLink,
    #[serde(default)]
    pub network: TypedNetwork,
    #[serde(default)]
    pub storage: TypedStorage,
    #[serde(default)]
    pub aliases: TypedAliases,
    #[serde(default)]
    pub paths: TypedPaths,
    #[serde(default)]
    pub access: TypedAccess,
    #[serde(default)]
    pub debug: TypedDebug,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedHost {
    pub name: String,
    pub region: String,
    #[serde(default = "local_libvirt")]
    pub libvirt: String,
    pub cpus: Option<u32>,
    pub memory_mib: Option<u64>,
    pub site: Option<String>,
    pub address: Option<String>,
    pub migration_interface: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedPeer {
    pub name: String,
    pub region: String,
    pub libvirt: String,
    pub migrate_uri: Option<String>,
    pub cpus: Option<u32>,
    pub memory_mib: Option<u64>,
    pub site: Option<String>,
    pub address: Option<String>,
    pub link: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedGuests {
    #[serde(default)]
    pub enabled: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TypedLimits {
    pub simultaneous_moves: u32,
    pub cooldown_s: u64,
    pub max_total_s: u64,
    pub requests_per_minute: u32,
    pub min_load_gain: f64,
    pub bandwidth_mib_s: Option<u64>,
    pub max_downtime_ms: Option<u64>,
    pub auto_converge: bool,
    pub ticket_ttl_s: u64,
    pub require_broker: bool,
    pub min_vcpu_wait: f64,
    pub hello_s: u64,
}

impl Default for TypedLimits {
    fn default() -> Self {
        Self {
            simultaneous_moves: 2,
            cooldown_s: 600,
            max_total_s: 600,
            requests_per_minute: 6,
            min_load_gain: 0.2,
            bandwidth_mib_s: None,
            max_downtime_ms: None,
            auto_converge: false,
            ticket_ttl_s: 86_400,
            require_broker: true,
            min_vcpu_wait: 0.2,
            hello_s: 60,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TypedNotice {
    pub notice_max_s: u64,
    pub hold_max_s: u64,
    pub postpone_max_s: u64,
    pub veto: Vetoes,
}

impl Default for TypedNotice {
    fn default() -> Self {
        Self { notice_max_s: 60, hold_max_s: 300, postpone_max_s: 86_400, veto: Vetoes::Own }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TypedRandom {
    pub pool: Vec<String>,
    pub min_gap_s: u64,
    pub max_per_day: u64,
}

impl Default for TypedRandom {
    fn default() -> Self {
        Self { pool: Vec::new(), min_gap_s: 20, max_per_day: 5000 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TypedEncryption {
    pub certificates: Option<PathBuf>,
    pub default: String,
    pub tell_certificate: bool,
    pub rules: Vec<TypedEncryptionRule>,
}

impl Default for TypedEncryption {
    fn default() -> Self {
        Self { certificates: None, default: "never".into(), tell_certificate: true, rules: Vec::new() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedEncryptionRule {
    #[serde(default)]
    pub guests: Vec<String>,
    #[serde(default)]
    pub hosts: Vec<String>,
    #[serde(default)]
    pub to: Vec<String>,
    pub level: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedRegion {
    pub name: String,
    pub latitude: Option<f64>,
    pub longitude: Option<f64>,
    #[serde(default)]
    pub countries: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedDistance {
    pub from: String,
    pub to: String,
    pub ms: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TypedLink {
    pub listen: Option<String>,
    pub max_rtt_ms: u64,
    pub min_rate_mib_s: u64,
}

impl Default for TypedLink {
    fn default() -> Self {
        Self { listen: None, max_rtt_ms: 150, min_rate_mib_s: 30 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TypedNetwork {
    pub step: Vec<String>,
    pub bridges: Vec<String>,
    pub one_per_site: bool,
    pub timeout_s: u64,
    pub release_after_s: u64,
}

impl Default for TypedNetwork {
    fn default() -> Self {
        Self { step: Vec::new(), bridges: Vec::new(), one_per_site: true, timeout_s: 30, release_after_s: 60 }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TypedStorage {
    pub shared: Vec<String>,
    pub bases: Vec<String>,
    pub copy: bool,
    pub copy_in_the_clear: bool,
    pub remove_source: bool,
    pub max_gib: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedAliases {
    pub key_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TypedPaths {
    pub socket: PathBuf,
    pub state: PathBuf,
}

impl Default for TypedPaths {
    fn default() -> Self {
        Self { socket: "/run/coms/broker.sock".into(), state: "/var/lib/coms".into() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TypedAccess {
    pub status_group: String,
    pub change_group: String,
}

impl Default for TypedAccess {
    fn default() -> Self {
        Self { status_group: "coms".into(), change_group: "coms-admin".into() }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TypedDebug {
    pub record_links: Option<PathBuf>,
}

fn local_libvirt() -> String {
    "qemu:///system".into()
}
