//! The words that both directions use. Every text and list has a limit that is checked while decoding.

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize, Serializer};
use std::fmt;

/// Chosen by the guest for one request and never used again by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, DeriveDeserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

/// Chosen by the broker for one attempt to move one VM; random, so that nobody can guess another guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MigrationId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl fmt::Display for MigrationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{:016x}", self.0)
    }
}

impl std::str::FromStr for MigrationId {
    type Err = BadMigrationId;
    fn from_str(s: &str) -> Result<Self, BadMigrationId> {
        let digits = s.strip_prefix('m').filter(|d| d.len() == 16).ok_or(BadMigrationId)?;
        u64::from_str_radix(digits, 16).map(MigrationId).map_err(|_| BadMigrationId)
    }
}

/// A text that is no migration id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a migration id is the letter m and 16 hexadecimal digits, as `migrations` prints it")]
pub struct BadMigrationId;

// On the wire a number; in JSON the text that people copy (64 bits do not survive JavaScript).
impl Serialize for MigrationId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { s.serialize_u64(self.0) }
    }
}

impl<'de> Deserialize<'de> for MigrationId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            String::deserialize(d)?.parse().map_err(de::Error::custom)
        } else {
            u64::deserialize(d).map(MigrationId)
        }
    }
}

/// Text of at most `N` bytes of UTF-8 without control characters: nothing in it can move a terminal's cursor
/// or begin a new line in a log.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Text<const N: usize>(String);

impl<const N: usize> Text<N> {
    /// `s` as far as it fits; each control character becomes U+FFFD.
    pub fn clipped(s: &str) -> Self {
        Self(clip(s, N))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// Once for all lengths: the agent is small.
fn clip(s: &str, most: usize) -> String {
    let mut out = String::new();
    for c in s.chars().map(|c| if forbidden(c) { char::REPLACEMENT_CHARACTER } else { c }) {
        if out.len() + c.len_utf8() > most {
            break;
        }
        out.push(c);
    }
    out
}

/// Controls (C0, C1, DEL), line separators and characters that change the writing direction.
fn forbidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const N: usize> Serialize for Text<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Text<N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V<const N: usize>;
        impl<const N: usize> Visitor<'_> for V<N> {
            type Value = Text<N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "text of at most {N} bytes without control characters")
            }
            // The length is checked on the borrowed slice, before anything is copied.
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Text<N>, E> {
                if s.len() > N || s.chars().any(forbidden) {
                    return Err(E::invalid_length(s.len(), &self));
                }
                Ok(Text(s.to_owned()))
            }
        }
        d.deserialize_str(V::<N>)
    }
}

/// List of at most `N` items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T, const N: usize>(Vec<T>);

impl<T, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const N: usize> List<T, N> {
    /// The first `N` of `items`.
    pub fn clipped(items: impl IntoIterator<Item = T>) -> Self {
        Self(items.into_iter().take(N).collect())
    }

    /// The items.
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }
}

impl<T: Serialize, const N: usize> Serialize for List<T, N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for List<T, N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V<T, const N: usize>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for V<T, N> {
            type Value = List<T, N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {N} items")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T, N>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    if items.len() == N {
                        return Err(de::Error::invalid_length(N + 1, &self));
                    }
                    items.push(item);
                }
                Ok(List(items))
            }
        }
        d.deserialize_seq(V(std::marker::PhantomData))
    }
}

/// An enumeration that may grow: a number on the wire, a name in JSON, `Unknown` when it comes from a newer
/// peer. Numbers are given once and never reused.
#[macro_export]
macro_rules! open_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $number:literal $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$vmeta])* $variant,)+
            /// A value that a newer peer knows and this one does not.
            Unknown(u16),
        }

        impl $name {
            /// Every value this build knows.
            pub const KNOWN: &'static [$name] = &[$($name::$variant),+];

            /// Its number on the wire.
            pub fn number(self) -> u16 {
                match self { $($name::$variant => $number,)+ $name::Unknown(n) => n }
            }

            /// The value with this number on the wire.
            pub fn from_number(n: u16) -> Self {
                match n { $($number => $name::$variant,)+ other => $name::Unknown(other) }
            }

            /// Its name in JSON, in configuration and on screen.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)+ $name::Unknown(_) => "unknown" }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.name()) }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() { s.serialize_str(self.name()) } else { s.serialize_u16(self.number()) }
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                if d.is_human_readable() {
                    let text = <String as serde::Deserialize>::deserialize(d)?;
                    match text.as_str() {
                        $($text => Ok($name::$variant),)+
                        "unknown" => Ok($name::Unknown(u16::MAX)),
                        other => Err(serde::de::Error::unknown_variant(other, &[$($text),+])),
                    }
                } else {
                    <u16 as serde::Deserialize>::deserialize(d).map($name::from_number)
                }
            }
        }
    };
}
pub use open_enum;

open_enum! {
    /// How memory is moved.
    pub enum Technique {
        /// Copy while it runs, stop, copy the rest.
        PreCopy = 0 "pre-copy",
        /// Stop, move the CPUs, fetch memory on demand.
        PostCopy = 1 "post-copy",
        /// Pre-copy first, post-copy when it does not converge.
        Hybrid = 2 "hybrid",
        /// Pre-copy that slows the guest until it converges.
        AutoConverge = 3 "auto-converge",
        /// Pre-copy of compressed pages.
        Compressed = 4 "compressed",
        /// Pre-copy over several connections.
        Multifd = 5 "multifd",
    }
}

open_enum! {
    /// What protected a migration's traffic.
    pub enum Encryption {
        /// Nothing: memory crossed the network in the clear.
        None = 0 "none",
        /// QEMU's own TLS with certificates checked at both ends.
        Tls = 1 "tls",
        /// libvirt's tunnel.
        Tunnel = 2 "tunnel",
    }
}

open_enum! {
    /// Whether moves are to be encrypted: memory, devices' state, disks and control. Of several wishes the strongest
    /// counts; a level that is unknown counts as required.
    pub enum EncryptionLevel {
        /// No wish that they are.
        Never = 0 "never",
        /// Where both hosts are ready for it.
        IfPossible = 1 "if-possible",
        /// Encrypted, or not moved.
        Required = 2 "required",
    }
}

#[expect(clippy::derivable_impls, reason = "the macro that makes the enumeration has no default")]
impl Default for EncryptionLevel {
    fn default() -> Self {
        Self::Never
    }
}

impl EncryptionLevel {
    /// The stronger of two. What a newer peer means is not guessed: it is the strongest.
    pub fn or(self, other: Self) -> Self {
        let known = |level| if matches!(level, Self::Unknown(_)) { Self::Required } else { level };
        let (a, b) = (known(self), known(other));
        if a.number() >= b.number() { a } else { b }
    }

    /// The level of this name, as configurations and command lines write it.
    pub fn named(name: &str) -> Option<Self> {
        Self::KNOWN.iter().copied().find(|level| level.name() == name)
    }
}

open_enum! {
    /// What protected one channel of a migration.
    pub enum Protection {
        /// There was nothing to carry.
        None = 0 "none",
        /// It crossed the network in the clear.
        Plain = 1 "plain",
        /// TLS.
        Tls = 2 "tls",
        /// ssh.
        Ssh = 3 "ssh",
        /// It never left the machine.
        Local = 4 "local",
    }
}

open_enum! {
    /// Who wanted a migration.
    pub enum Initiator {
        /// The customer: the agent's rules or `coms migrate`.
        Customer = 0 "customer",
        /// The operator: `comsctl migrate`.
        Operator = 1 "operator",
        /// Somebody past the broker: virsh, another manager.
        Foreign = 2 "foreign",
        /// The customer, by a time or a window chosen before.
        Schedule = 3 "schedule",
        /// The customer's random moves: the host's dice.
        Random = 4 "random",
    }
}

open_enum! {
    /// Why a guest asks to be moved.
    pub enum RequestReason {
        /// A workload has been slow for longer than its rule allows.
        WorkloadSlow = 0 "workload-slow",
        /// A workload's probes fail.
        WorkloadFailing = 1 "workload-failing",
        /// Somebody typed `coms migrate`.
        Manual = 2 "manual",
        /// A time that the customer chose before has come.
        Schedule = 3 "schedule",
        /// A plugin of the customer's wishes it, for what only it can see.
        Plugin = 4 "plugin",
        /// Most of the guest's clients, and of their traffic, have been in another region for long enough.
        Clients = 5 "clients",
    }
}

open_enum! {
    /// What a piece of evidence measures.
    pub enum Metric {
        /// Median latency in microseconds.
        LatencyP50Us = 0 "latency-p50-us",
        /// 95th percentile of latency in microseconds.
        LatencyP95Us = 1 "latency-p95-us",
        /// 99th percentile of latency in microseconds.
        LatencyP99Us = 2 "latency-p99-us",
        /// Failed probes, in thousandths of all.
        FailuresPermille = 3 "failures-permille",
        /// CPU time that a fixed piece of work takes, in microseconds: more when the host gives less per second.
        CalibrationUs = 4 "calibration-us",
        /// Time that the hypervisor says it kept from this VM, in thousandths of all its CPUs' time.
        StealPermille = 5 "steal-permille",
        /// Time that the guest's own tasks waited for a CPU, in thousandths of elapsed time.
        OwnWaitPermille = 6 "own-wait-permille",
        /// Packets that came in per second: how much is asked of the guest.
        PacketsPerS = 7 "packets-per-s",
        /// Clients that are in the region of this name, in thousandths of all whose place is known.
        ClientsPermille = 8 "clients-permille",
        /// Bytes that went to and came from clients in the region of this name, in thousandths of all such.
        TrafficPermille = 9 "traffic-permille",
    }
}

open_enum! {
    /// Why a request was refused. Final for the request; a later one may fare better.
    pub enum DenyReason {
        /// The operator has not enabled this VM.
        NotEnabled = 0 "not-enabled",
        /// It moved too recently.
        Cooldown = 1 "cooldown",
        /// As many moves as the operator allows at once are running.
        TooManyMoves = 2 "too-many-moves",
        /// No host that answers can take it.
        NoDestination = 3 "no-destination",
        /// No host in the wished region can take it.
        NoDestinationInRegion = 4 "no-destination-in-region",
        /// Every other host is as busy as this one.
        NoBetterHost = 5 "no-better-host",
        /// The hypervisor considers moving this VM unsafe or impossible (its disks, its devices).
        CannotMove = 6 "cannot-move",
        /// The wishes leave no technique that the host has.
        NoTechnique = 7 "no-technique",
        /// The operator's policy forbids it.
        Policy = 8 "policy",
        /// The request's own deadline passed before it could start.
        DeadlinePassed = 9 "deadline-passed",
        /// The guest asks more often than it may.
        TooOften = 10 "too-often",
        /// The host could not find out or write what it must before a move; nothing was tried.
        HostTrouble = 11 "host-trouble",
        /// The request contradicts itself or an earlier one with its id.
        BadRequest = 12 "bad-request",
        /// Another job holds the VM: a backup, or a move that somebody else began.
        Busy = 13 "busy",
        /// The chosen destination refused it before anything was copied.
        DestinationRefused = 14 "destination-refused",
        /// The operator has paused all moves that customers ask for.
        Paused = 15 "paused",
        /// The guest's CPUs hardly wait here: what slows it is its own.
        OwnLoad = 16 "own-load",
        /// Another guest of this host is moved first; measure again afterwards.
        OthersFirst = 17 "others-first",
        /// No host that can take it is nearer to the wished region than this one.
        NoNearerHost = 18 "no-nearer-host",
        /// The way to the destination was measured and is too slow for the operator's policy.
        LinkUnfit = 19 "link-unfit",
        /// At the destination its clients could not reach it: the hosts share no network, and none could be stretched.
        Unreachable = 20 "unreachable",
        /// One of its disks is on its host alone, and cannot be copied.
        DiskNotMovable = 21 "disk-not-movable",
        /// The destination is not prepared for its disks: no place for them, no base image, or something in the way.
        DiskNotReady = 22 "disk-not-ready",
        /// Its disks would have to be copied, and there is too little room at the destination.
        DiskNoRoom = 23 "disk-no-room",
        /// It uses a device that is part of its host.
        DeviceNotMovable = 24 "device-not-movable",
        /// The destination lacks what one of its devices needs: a TPM's emulator, a network filter, a key.
        DeviceNotReady = 25 "device-not-ready",
        /// Its encryption is required, or that of its disks' copies, and the way to no host that would do can be encrypted now.
        NotEncryptable = 26 "not-encryptable",
        /// The network that its host keeps for migrations cannot be used now, and no other one is.
        MigrationLinkDown = 27 "migration-link-down",
    }
}

open_enum! {
    /// Why a migration that had begun did not get there. The VM runs where it was.
    pub enum FailReason {
        /// The destination refused or could not receive it.
        DestinationRefused = 0 "destination-refused",
        /// The destination, or the way to it, was lost.
        DestinationLost = 1 "destination-lost",
        /// It did not end within the operator's time limit.
        TimeLimit = 2 "time-limit",
        /// The hypervisor at the source gave up.
        SourceError = 3 "source-error",
        /// The host cannot tell; the VM runs here.
        Unexplained = 4 "unexplained",
        /// The two hosts could not agree on an encrypted connection, and nothing else was allowed.
        EncryptionFailed = 8 "encryption-failed",
        /// The network that the host keeps for migrations was lost, and no other one was used.
        MigrationLinkLost = 9 "migration-link-lost",
    }
}

open_enum! {
    /// How far a running migration is.
    pub enum Phase {
        /// Choosing, checking, writing the ticket.
        Preparing = 0 "preparing",
        /// Memory is being copied.
        Copying = 1 "copying",
        /// The VM is stopped; the rest follows.
        SwitchingOver = 2 "switching-over",
        /// Runs at the destination, memory still coming.
        PostCopy = 3 "post-copy",
        /// Announced; waits for the end of its notice, or because the guest asked for it.
        Announced = 4 "announced",
    }
}

open_enum! {
    /// Why a move is made.
    pub enum NoticeReason {
        /// A workload of the guest suffers, and it asked.
        Workload = 0 "workload",
        /// The customer asked by hand.
        Manual = 1 "manual",
        /// A time that the customer chose has come.
        Schedule = 2 "schedule",
        /// The customer's random moves.
        Random = 3 "random",
        /// The operator empties or repairs the host.
        Maintenance = 4 "maintenance",
        /// The operator spreads load.
        Balance = 5 "balance",
        /// Nobody told.
        Unstated = 6 "unstated",
        /// Nearer to the guest's clients.
        Clients = 7 "clients",
    }
}

open_enum! {
    /// What in a guest stands against a move now.
    pub enum Cause {
        /// A registered application.
        App = 0 "app",
        /// A command of the configuration.
        Command = 1 "command",
        /// The customer's windows.
        Window = 2 "window",
        /// Somebody typed it.
        Manual = 3 "manual",
    }
}

open_enum! {
    /// What a verdict answers.
    pub enum Asked {
        /// A hold.
        Hold = 0 "hold",
        /// A postpone.
        Postpone = 1 "postpone",
        /// A veto.
        Veto = 2 "veto",
    }
}

open_enum! {
    /// How the gap between two random moves is drawn.
    pub enum GapLaw {
        /// Exponential, cut to the range: time that has passed tells as little as can be about when the next comes.
        Exponential = 0 "exponential",
        /// Every gap of the range alike: the longer none came, the sooner one must.
        Uniform = 1 "uniform",
    }
}

open_enum! {
    /// Whether random moves are made, and if not, why.
    pub enum RandomState {
        /// They are made.
        On = 0 "on",
        /// Nobody asked for them, or they were stopped.
        Off = 1 "off",
        /// Today's are used up; they go on by themselves.
        BudgetUsedUp = 2 "budget-used-up",
        /// The operator does not offer them to this guest.
        NotOffered = 3 "not-offered",
        /// The range is empty, or shorter than the operator allows.
        BadRange = 4 "bad-range",
        /// No other host of the pool can take it now; tried again later.
        NoDestination = 5 "no-destination",
        /// The operator has paused customers' moves; they go on when he resumes.
        Paused = 6 "paused",
    }
}

open_enum! {
    /// Whether a guest may be moved to a host now.
    pub enum Fitness {
        /// It runs here.
        Here = 0 "here",
        /// It may.
        Fit = 1 "fit",
        /// The host does not answer.
        Silent = 2 "silent",
        /// No broker runs there, and the operator wants one.
        NoBroker = 3 "no-broker",
        /// Not enough memory.
        Full = 4 "full",
    }
}

/// A host as one guest may know it. The alias is keyed per guest: two guests on one host see two aliases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, DeriveDeserialize)]
pub struct Place {
    /// Stable for this guest, meaningless to any other.
    pub alias: Text<32>,
    /// The operator's region.
    pub region: Text<64>,
}

/// What a migration took. Absent is unknown, never 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, DeriveDeserialize)]
pub struct Figures {
    /// From libvirt's start of the job to its end (virDomainGetJobStats `time_elapsed`).
    pub total_ms: Option<u64>,
    /// Guest stopped (`downtime`), as the hypervisors saw it.
    pub downtime_ms: Option<u64>,
    /// Memory bytes sent (`memory_processed`).
    pub bytes: Option<u64>,
    /// Pages sent with content (`memory_normal`).
    pub pages: Option<u64>,
    /// Rounds of copying (`memory_iteration`).
    pub rounds: Option<u64>,
    /// Before the first byte: connecting, checking, creating the receiver.
    pub prepare_ms: Option<u64>,
    /// From the receiver's having everything to the guest's running.
    pub resume_ms: Option<u64>,
}

/// A host of the pool, as one guest may know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, DeriveDeserialize)]
pub struct HostEntry {
    /// Which.
    pub place: Place,
    /// Whether the guest may be moved there now.
    pub fitness: Fitness,
}

/// A country by its two letters of ISO 3166-1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country([u8; 2]);

impl Country {
    /// Two ASCII letters, of any case; None for anything else.
    pub fn new(letters: &str) -> Option<Self> {
        match *letters.as_bytes() {
            [a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
                Some(Self([a.to_ascii_uppercase(), b.to_ascii_uppercase()]))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", char::from(self.0[0]), char::from(self.0[1]))
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Country {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { self.0.serialize(s) }
    }
}

impl<'de> Deserialize<'de> for Country {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Country;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a country's two letters (ISO 3166-1)")
            }
            fn visit_str<E: de::Error>(self, s: &str) -> Result<Country, E> {
                Country::new(s).ok_or_else(|| E::invalid_value(de::Unexpected::Str("other text"), &self))
            }
        }
        if d.is_human_readable() {
            return d.deserialize_str(V);
        }
        let bytes = <[u8; 2]>::deserialize(d)?;
        // The one way to write each: small letters are none.
        let country = std::str::from_utf8(&bytes).ok().and_then(Country::new).filter(|c| c.0 == bytes);
        country.ok_or_else(|| de::Error::invalid_value(de::Unexpected::Bytes(&bytes), &V))
    }
}

/// Where on the earth, in hundredths of a degree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, DeriveDeserialize)]
pub struct Coordinates {
    /// North positive, -9000 to 9000.
    pub latitude_cdeg: i16,
    /// East positive, -18000 to 18000.
    pub longitude_cdeg: i16,
}

/// One of the operator's regions. A client belongs to the region that lists its country; where none does and regions
/// have coordinates, to the nearest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, DeriveDeserialize)]
pub struct RegionEntry {
    /// As places and wishes name it.
    pub name: Text<64>,
    /// Where it is.
    pub at: Option<Coordinates>,
    /// Its countries.
    pub countries: List<Country, 60>,
}
