//! What the lab and the program inside the guests say to each other.

use std::{collections::BTreeMap, net::Ipv4Addr};

use serde::{Deserialize, Serialize};

/// Where a guest finds its [`GuestSpec`].
pub const SPEC_PATH: &str = "/etc/coms-lab.json";
/// The guest's TCP port that takes one [`ExecRequest`] per connection.
pub const EXEC_PORT: u16 = 7000;
/// The guest's UDP and TCP port that sends back whatever it gets.
pub const ECHO_PORT: u16 = 7;
/// The guest's TCP port that sends without end; TCP on the echo port echoes.
pub const STREAM_PORT: u16 = 19;
/// The guest's HTTP port, if it has a workload.
pub const HTTP_PORT: u16 = 8080;
/// One line per round of the workload: `unix_ms monotonic_ms round_ms`.
pub const ROUNDS_PATH: &str = "/var/log/workload.rounds";

/// What a guest should be, written into its root file system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GuestSpec {
    /// Its host name.
    pub name: String,
    /// Its address on the LAN.
    pub ip: Ipv4Addr,
    /// How to run `/usr/bin/coms-agent`, if at all.
    pub agent: Option<AgentSpec>,
    /// The work that it does all the time, if any.
    pub workload: Option<Workload>,
    /// Threads that burn CPU from the start.
    pub hog_threads: u32,
    /// Where what is not for the guests' network goes; `None`: everything is on the link.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// Go on with the root file system on the first disk instead of this one.
    #[serde(default)]
    pub from_disk: bool,
}

/// What a guest that goes on from its disk puts into the file system there first.
pub const ADDED_DIR: &str = "/added";

/// How the agent is started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AgentSpec {
    /// Its arguments.
    pub args: Vec<String>,
    /// Its environment, beside PATH.
    pub env: BTreeMap<String, String>,
}

/// A fixed amount of CPU work, over and over, and a web page that costs some.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Workload {
    /// Iterations per round; 0: nothing but the page.
    pub round_iterations: u64,
    /// Iterations per answered request.
    pub request_iterations: u64,
}

impl Default for Workload {
    /// About 200 ms a round and 5 ms a request on an otherwise idle CPU under TCG.
    fn default() -> Workload {
        Workload { round_iterations: 75_000_000, request_iterations: 1_900_000 }
    }
}

/// A program to run in the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// What it reads.
    pub stdin: String,
    /// When to kill it.
    pub timeout_ms: u64,
}

/// How a program in the guest ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecReply {
    /// Its exit status; 128 + the signal's number if it was killed by one.
    pub status: i32,
    /// Its standard output, at most 4 MiB.
    pub stdout: String,
    /// Its standard error, at most 4 MiB.
    pub stderr: String,
    /// Why there is no exit status worth reading: not found, or out of time.
    pub error: Option<String>,
}
