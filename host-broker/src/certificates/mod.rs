//! The certificates of a host, judged before a migration does: QEMU's (for memory and disks) and libvirt's (for its control
//! connection).
//!
//! [`inspect`] is pure: the files' bytes and owners and a time go in, findings come out. What QEMU 7.2 and libvirt 9.0
//! themselves check when they load these files (`crypto/tlscredsx509.c`, `src/rpc/virnettlscontext.c`) is checked the same
//! way here. [`installed`] reads a host's files, [`conf`] what libvirt's configuration says of them; [`make`] makes
//! certificates that pass.

pub mod conf;
mod confirm;
pub mod installed;
mod judge;
pub mod make;
mod read;
#[cfg(test)]
mod tests;

use serde::Serialize;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

pub use confirm::{LibvirtFiles, behind, confirmation};
pub use judge::{AUTHORITY_WARN_DAYS, day, inspect, inspect_replacement, writable_directories};

/// The group ffdhe3072 of RFC 7919, as QEMU reads it (PKCS #3 in PEM).
pub const DH_PARAMS: &str = include_str!("ffdhe3072.pem");

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Works, and could be better.
    Hint,
    /// Works now, and will not for long, or not for everybody.
    Warn,
    /// Migrations fail, or are not protected.
    Fail,
}

/// What was found, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Well,
    NothingInstalled,
    Missing,
    Unreadable,
    /// Not by the user as whom QEMU runs.
    UnreadableByQemu,
    ReadableByOthers,
    WritableByOthers,
    NotPem,
    Damaged,
    NotAnAuthority,
    TooManyAuthorities,
    AuthorityForLeaf,
    OtherAuthority,
    NotYetValid,
    Expired,
    ExpiresSoon,
    WrongName,
    NameMissing,
    NotForServer,
    NotForClient,
    KeyUsage,
    KeyMismatch,
    KeyNotJudged,
    DhParams,
    /// The change would leave this host and the others without an authority in common.
    BreaksTrust,
    VerifyOff,
    Setting,
    /// QEMU and the broker look in different places.
    OtherDirectory,
    UserUnknown,
}

/// One thing that was found in one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub kind: Kind,
    pub file: PathBuf,
    /// What is so, or wrong. Holds names from certificates: others' words.
    pub detail: String,
    /// What mends it; empty where nothing is to be done.
    pub remedy: String,
}

impl Finding {
    pub(crate) fn new(
        severity: Severity,
        kind: Kind,
        file: &Path,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { severity, kind, file: file.to_owned(), detail: detail.into(), remedy: remedy.into() }
    }
}

/// A file as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub path: PathBuf,
    pub content: Content,
    /// None: not known, and not judged.
    pub meta: Option<Meta>,
    /// The directories above it, from the root down.
    pub above: Vec<Meta>,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Content {
    Missing,
    /// With the reason.
    Unreadable(String),
    /// Not by who runs this.
    Denied(String),
    Bytes(Vec<u8>),
}

/// Keys are among them: what is in a file reaches no log.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Missing => f.write_str("missing"),
            Content::Unreadable(why) | Content::Denied(why) => write!(f, "unreadable: {why}"),
            Content::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
        }
    }
}

impl File {
    /// Its bytes, where it is there.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Bytes(bytes) => Some(bytes),
            Content::Missing | Content::Unreadable(_) | Content::Denied(_) => None,
        }
    }

    fn is_missing(&self) -> bool {
        self.content == Content::Missing
    }
}

/// Who owns it, and what the mode lets others do. Access control lists are not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

impl Meta {
    fn lets(self, who: &User, wanted: u32) -> bool {
        let shift = if self.uid == who.uid {
            6
        } else if who.gids.contains(&self.gid) {
            3
        } else {
            0
        };
        who.uid == 0 || (self.mode >> shift) & wanted == wanted
    }

    /// Others than root can change it.
    pub fn is_writable_by_others(self) -> bool {
        self.uid != 0 || self.mode & 0o002 != 0 || (self.mode & 0o020 != 0 && self.gid != 0)
    }

    /// Others than root can put something else in the place of what root has in this directory: not in a sticky one.
    fn lets_others_replace(self) -> bool {
        self.is_writable_by_others() && (self.uid != 0 || self.mode & 0o1000 == 0)
    }
}

/// A user of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    /// The primary one first.
    pub gids: Vec<u32>,
}

/// Certificate and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub cert: File,
    pub key: File,
}

/// Whose files they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// QEMU's: read by its user when a migration begins.
    Qemu,
    /// libvirt's, for its control connection: read by root.
    Libvirt,
    /// On their way to a host.
    Bundle,
}

/// The files that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub owner: Owner,
    pub ca: File,
    pub server: Pair,
    pub client: Pair,
    pub dh_params: Option<File>,
}

impl Set {
    pub fn files(&self) -> impl Iterator<Item = &File> {
        [&self.ca, &self.server.cert, &self.server.key, &self.client.cert, &self.client.key]
            .into_iter()
            .chain(&self.dh_params)
    }

    /// Nothing of it is there.
    pub fn is_absent(&self) -> bool {
        self.files().all(File::is_missing)
    }
}

/// By what others call a host when they check its certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Name {
    Ip(IpAddr),
    Dns(String),
}

impl Name {
    /// None: neither an address nor a DNS name.
    pub fn parse(text: &str) -> Option<Self> {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse() {
            return Some(Name::Ip(ip));
        }
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        (text.len() <= 253 && text.split('.').all(label)).then(|| Name::Dns(text.to_ascii_lowercase()))
    }

    /// The host of a URI such as `qemu+tls://host2/system` or `tcp://[fd00::2]:49152`.
    pub fn of_uri(uri: &str) -> Option<Self> {
        let rest = uri.split_once("://")?.1;
        let authority = rest.split(['/', '?', '#']).next()?;
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        if host.starts_with('[') {
            return Self::parse(&host[..=host.find(']')?]);
        }
        Self::parse(host.rsplit_once(':').map_or(host, |(host, _)| host))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Ip(ip) => ip.fmt(f),
            Name::Dns(name) => f.write_str(name),
        }
    }
}

/// What the files are held against.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// What this host may be called by: the server's certificate must have one of them. Empty: not judged.
    pub names: Vec<Name>,
    /// What libvirt here tells others to call it by when they migrate to it.
    pub must: Option<Name>,
    /// Where others migrate to by their configuration of the migration network: all of them must be in it.
    pub migration: Vec<IpAddr>,
    /// What libvirt here tells them for want of a setting, and they may be told otherwise.
    pub usual: Option<Name>,
    /// As whom QEMU runs.
    pub qemu: Option<User>,
}

impl Expected {
    /// What libvirt's own connections call this host by are the others' URIs, which are not known here: any name does.
    pub fn of_libvirt(self) -> Self {
        Self { must: None, migration: Vec::new(), usual: None, ..self }
    }
}

/// SHA-256 of the first certificate in a PEM file, as `openssl x509 -fingerprint -sha256` shows it but without colons: 64
/// lower-case hexadecimal digits. None: there is none that can be read.
pub fn fingerprint(pem: &[u8]) -> Option<String> {
    let cert = read::certificates(pem).ok()?.into_iter().next()?;
    Some(hex(ring::digest::digest(&ring::digest::SHA256, &cert.der).as_ref()))
}

/// When the first of a PEM file's certificates to do so expires. None: there is none that can be read.
pub fn not_after_unix_s(pem: &[u8]) -> Option<i64> {
    read::certificates(pem).ok()?.iter().map(|c| c.not_after_unix_s).min()
}

/// A short word for what a host trusts and what it shows: the same as the authority's only if the host has installed
/// exactly what the authority made last. 16 hexadecimal digits.
pub fn receipt(ca_pem: &[u8], server_cert_pem: &[u8]) -> Option<String> {
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    for pem in [ca_pem, server_cert_pem] {
        for cert in read::certificates(pem).ok()? {
            digest.update(&cert.der);
        }
    }
    Some(hex(&digest.finish().as_ref()[..8]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
