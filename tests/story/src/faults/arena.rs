//! Two hosts and a guest that always moves, used for one row after the other.

use super::check;
use super::moment::{Moment, Who};
use super::report::Line;
use super::row::{Expect, Initiator, Limits, Row};
use super::strike::{self, Ends};
use crate::{AGENT_STOPS_AT, BROKER_STOPS_AT, HOSTS, Result, Settings, Stage, coms, coms_within, wait};
use coms_lab::{Guest, GuestConfig, Signal};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Slow enough that copying takes seconds, and faults find it under way.
const LINK_MBIT: u32 = 400;
const PATTERN_MIB: u32 = 16;
const PATTERN_MIB_S: u32 = 4;
/// Something to measure again after a move (step 11), and no reason to ask for one.
const AGENT: &str = r#"
[asking]
settle_s = 1
check_s = 3

[[workload]]
name = "door"
probe = { command = ["/bin/true"] }
interval_ms = 500
window_s = 5
"#;
/// What a program in the flow may take to reach the row's moment.
const MOMENT_S: u64 = 60;

/// Where the rows take place.
pub struct Arena {
    pub stage: Stage,
    pub guest: Guest,
    /// Its boot's id: another means that it did not survive.
    pub boot_id: String,
    /// The QEMU processes from before the move.
    pub qemus_before: Vec<u32>,
    /// How long each broker's log was before the move.
    pub logs_before: [usize; 2],
    limits: Limits,
}

/// What was asked for, and under which id it can be followed.
#[derive(Debug, Default)]
pub struct Asked {
    /// The guest's request.
    pub request: Option<u64>,
    /// The operator's migration, where comsctl lived long enough to say it.
    pub migration: Option<String>,
}

impl Arena {
    pub fn new() -> Result<Arena> {
        let stage = Stage::up(Settings {
            hosts: vec![(0, Some(LINK_MBIT)), (1, Some(LINK_MBIT))],
            limits: limits_with(""),
            stop_points: true,
            ..Settings::default()
        })?;
        let guest = boot(&stage)?;
        let boot_id = boot_id(&guest)?;
        Ok(Arena { stage, guest, boot_id, qemus_before: Vec::new(), logs_before: [0; 2], limits: "" })
    }

    /// Runs a row to its end. An error is the harness's own or a wait that was in vain; the arena is spent then.
    pub fn run(&mut self, row: &Row) -> Line {
        let start = Instant::now();
        let mut got = String::new();
        let mut wrong = Vec::new();
        if let Err(e) = self.play(row, &mut got, &mut wrong) {
            wrong.push(format!("{e}"));
        }
        Line { row: *row, got, wrong, seconds: start.elapsed().as_secs_f64() }
    }

    fn play(&mut self, row: &Row, got: &mut String, wrong: &mut Vec<String>) -> Result<()> {
        self.prepare(row)?;
        let from = HOSTS.iter().position(|h| self.guest.current_host().is_ok_and(|c| c.name() == *h));
        let from = from.ok_or("the guest is nowhere")?;
        let ends = Ends { from, to: 1 - from };
        self.qemus_before = self.guest.qemu_pids()?;
        let heard_before = crate::events(&self.guest)?.len();
        self.logs_before = [self.log(0)?.len(), self.log(1)?.len()];
        if row.dirty_mib_s > 0 {
            self.guest.start_dirtying(24, row.dirty_mib_s)?;
        }

        let asked = match row.at.who {
            None => {
                strike::strike(self, ends, row.fault)?;
                strike::strike(self, ends, row.also)?;
                if !row.fault.lasts() {
                    strike::mend(self, ends, row.fault)?;
                    strike::mend(self, ends, row.also)?;
                    self.ready()?;
                }
                self.ask(row.initiator, row.at, ends)?
            }
            Some(who) => self.ask_and_strike(row, who, ends)?,
        };
        let seen = check::settle(self, ends, row, &asked, heard_before)?;
        if row.fault.lasts() {
            strike::mend(self, ends, row.fault)?;
        }
        if row.dirty_mib_s > 0 && seen.host.is_some() {
            self.guest.stop_dirtying()?;
        }
        *got = seen.to_string();
        wrong.extend(check::expected(row, &seen));
        wrong.extend(check::rule(self, row, &seen)?);
        if row.expect == Expect::Dies {
            return self.bury();
        }
        // What is whole again moves again, and need not be slow.
        self.ready()?;
        self.link_mbit(None)?;
        let (status, answer) = coms_within(&self.guest, &["migrate", "--wait"], Duration::from_secs(90))?;
        if status != 0 {
            wrong.push(format!("the next move: {answer}"));
        }
        self.link_mbit(Some(LINK_MBIT))?;
        wrong.extend(check::rule(self, row, &check::again(self, &seen)?)?);
        Ok(())
    }

    fn prepare(&mut self, row: &Row) -> Result<()> {
        if self.limits != row.limits {
            self.limits = row.limits;
            let limits = limits_with(row.limits);
            self.stage.reconfigure(|s| s.limits = limits)?;
        }
        self.ready()?;
        if row.measures() {
            // The last row's move may still be measured, and would be told first.
            self.stage.wait("the agent to have measured", 30, || {
                Ok(coms(&self.guest, &["status"])?["measuring_effect"] == false)
            })?;
        }
        Ok(())
    }

    /// Everybody is there and knows everybody.
    fn ready(&mut self) -> Result<()> {
        self.stage.wait_for_load()?;
        for i in 0..2 {
            self.stage.wait("each broker to see the other's sign of life", 30, || {
                Ok(!self.stage.comsctl(i, &["hosts"])?[1]["broker"].is_null())
            })?;
        }
        self.stage.wait_for_agent(&self.guest)
    }

    fn saved_request(&self) -> Result<Option<u64>> {
        fn id(value: &Value) -> Option<u64> {
            let fields = value.as_object()?;
            let here = fields.get("request").and_then(|r| r["id"].as_u64());
            here.or_else(|| fields.values().find_map(id))
        }
        let state: Value = serde_json::from_str(&self.guest.sh("cat /var/lib/coms/agent.json")?)?;
        match id(&state["life"]) {
            None => Err(format!("no request was saved: {}", state["life"]).into()),
            found => Ok(found),
        }
    }

    fn ask(&self, initiator: Initiator, at: Moment, ends: Ends) -> Result<Asked> {
        match initiator {
            Initiator::Customer => {
                let request = match coms(&self.guest, &["migrate"]) {
                    Ok(said) => said["request"].as_u64(),
                    // The agent stands still between saving it and saying so.
                    Err(_) if at.who == Some(Who::Agent) => self.saved_request()?,
                    Err(e) => return Err(e),
                };
                Ok(Asked { request, migration: None })
            }
            Initiator::Operator => {
                let args = ["migrate", self.guest.name(), "--no-wait"];
                // Its broker may be killed before it can say anything.
                let said = self.stage.comsctl(ends.from, &args).unwrap_or_default();
                Ok(Asked { request: None, migration: said["migration"].as_str().map(str::to_owned) })
            }
        }
    }

    /// Lets a program stop at the row's moment, strikes there, lets it go on if it lives, and mends.
    fn ask_and_strike(&mut self, row: &Row, who: Who, ends: Ends) -> Result<Asked> {
        let words = row.at.words(row.initiator);
        match who {
            Who::Agent => {
                self.guest.exec_with(&["tee", AGENT_STOPS_AT], &words, Duration::from_secs(10))?.success()?;
            }
            Who::SourceBroker => self.stage.host(ends.from).write_file(BROKER_STOPS_AT, &words)?,
            Who::DestinationBroker => self.stage.host(ends.to).write_file(BROKER_STOPS_AT, &words)?,
        }
        let asked = match (row.initiator, who) {
            // comsctl hears nothing while its broker stands still: ask aside.
            (Initiator::Operator, Who::SourceBroker) => self.order_aside(ends)?,
            (Initiator::Operator | Initiator::Customer, _) => self.ask(row.initiator, row.at, ends)?,
        };
        let pid = self.stopped(who, ends)?;
        strike::strike(self, ends, row.fault)?;
        strike::strike(self, ends, row.also)?;
        match (who, pid) {
            (Who::Agent, _) => {
                self.guest.sh("kill -CONT $(pidof coms-agent) || true")?;
            }
            // Killed, it is no more; /proc tells.
            (Who::SourceBroker | Who::DestinationBroker, Some(pid)) if is_stopped(pid) => {
                strike::signal(pid, "CONT")?;
            }
            (Who::SourceBroker | Who::DestinationBroker, _) => {}
        }
        if !row.fault.lasts() {
            strike::mend(self, ends, row.fault)?;
        }
        strike::mend(self, ends, row.also)?;
        Ok(asked)
    }

    /// Waits until the program stands still at the row's moment.
    fn stopped(&mut self, who: Who, ends: Ends) -> Result<Option<u32>> {
        let i = match who {
            Who::Agent => {
                wait("the agent to reach the row's moment", MOMENT_S, || {
                    let state = self.guest.sh("grep State: /proc/$(pidof coms-agent)/status || true")?;
                    Ok(state.contains('T'))
                })?;
                return Ok(None);
            }
            Who::SourceBroker => ends.from,
            Who::DestinationBroker => ends.to,
        };
        let pid = self.stage.broker(i).ok_or("no broker to stop")?.pid();
        let reached = wait("a broker to reach the row's moment", MOMENT_S, || Ok(is_stopped(pid)));
        if reached.is_err() {
            println!("{}", self.stage.logs());
        }
        reached?;
        Ok(Some(pid))
    }

    /// Gives the order without waiting for its answer.
    fn order_aside(&self, ends: Ends) -> Result<Asked> {
        let program = self.stage.comsctl_program()?;
        let args = ["--json", "migrate", self.guest.name(), "--no-wait"];
        let log = format!("order-{}.json", crate::events(&self.guest)?.len());
        let host = self.stage.host(ends.from);
        let mut order = host.spawn(program, &args, &[], &log)?;
        // An answer given before the moment is had; one that cannot come is not waited for.
        let _ = order.wait_for_exit(Duration::from_millis(700));
        let said: Value = std::fs::read_to_string(host.log_dir().join(&log))
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        Ok(Asked { request: None, migration: said["migration"].as_str().map(str::to_owned) })
    }

    /// The guest is dead: what is left of it goes, and another takes its place.
    fn bury(&mut self) -> Result<()> {
        for i in 0..2 {
            let _ = self.stage.host(i).virsh(&["destroy", self.guest.name()]);
            let _ = self.stage.host(i).virsh(&["undefine", self.guest.name()]);
        }
        self.guest = boot(&self.stage)?;
        self.boot_id = boot_id(&self.guest)?;
        Ok(())
    }

    fn link_mbit(&self, rate: Option<u32>) -> Result<()> {
        (0..2).try_for_each(|i| Ok(self.stage.host(i).set_rate_mbit(rate)?))
    }

    /// What the broker of a host has logged.
    pub fn log(&self, i: usize) -> Result<String> {
        Ok(std::fs::read_to_string(self.stage.host(i).log_dir().join("coms-broker.log"))?)
    }

    /// Ends after all rows.
    pub fn finish(self) -> Result<()> {
        self.stage.finish(&[&self.guest])
    }

    /// Ends after a row that failed: nobody waits for a broker that still stands still.
    pub fn wreck(mut self) {
        for i in 0..2 {
            let _ = self.stage.stop_broker(i, Signal::KILL);
        }
    }
}

fn limits_with(more: &str) -> String {
    format!("cooldown_s = 0\nrequests_per_minute = 600\n{more}")
}

fn boot(stage: &Stage) -> Result<Guest> {
    let config = GuestConfig { persistent: true, memory_mib: 160, ..GuestConfig::default() };
    let guest = stage.boot(0, config, AGENT)?;
    guest.start_pattern(PATTERN_MIB, PATTERN_MIB_S)?;
    stage.wait("the pattern to be written", 30, || Ok(guest.sh("test -e /run/coms-lab-pattern").is_ok()))?;
    Ok(guest)
}

pub fn boot_id(guest: &Guest) -> Result<String> {
    Ok(guest.sh("cat /proc/sys/kernel/random/boot_id")?)
}

pub fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which may contain anything.
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}
