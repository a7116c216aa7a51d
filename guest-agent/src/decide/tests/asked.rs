//! Announced moves, windows, schedules and moves seen from inside: scripts, and one property over orders of events.

use super::*;
use crate::event::{Hold, Postpone, Ran, Ready, Register, Simulate, Veto, Window};
use coms_protocol::guest_to_host;
use coms_protocol::host_to_guest::{Cancelled, Notice, Terms, Verdict};
use coms_protocol::types::{Asked, Cause, NoticeReason};

const ID: MigrationId = MigrationId(9);

fn said(message: impl Into<HostToGuest>) -> Event {
    Event::Link(Session::Message(message.into()))
}

fn command(client: u64, command: Command) -> Event {
    Event::Command { client: ClientId(client), command }
}

fn register(client: u64, notice_s: u32, hold_s: u32) -> Event {
    command(client, Command::Register(Register { name: format!("app{client}"), notice_s, hold_s }))
}

fn terms(hold_up_to_ms: u32, postpone_up_to_s: u32) -> Terms {
    Terms {
        migration: ID,
        reason: NoticeReason::Maintenance,
        hold_up_to_ms,
        postpone_up_to_s,
        may_veto: false,
        expedited: false,
    }
}

fn notice(starts_in_ms: u32, initiator: Initiator) -> Notice {
    Notice {
        migration: ID,
        request: None,
        initiator,
        technique: Technique::PreCopy,
        starts_in_ms,
        predicted_downtime_ms: None,
        predicted_total_ms: None,
    }
}

/// An agent, and what it says to the host.
struct Talk {
    agent: Agent,
    ms: u64,
    done: Vec<Action>,
}

impl Talk {
    fn new(text: &str) -> Self {
        Self::with(text, State::new(5))
    }

    fn with(text: &str, state: State) -> Self {
        let agent = Agent::new(config(text), state, &BTreeSet::new(), 9, at(0));
        let mut talk = Self { agent, ms: 0, done: vec![] };
        talk.feed(met("a"));
        talk
    }

    fn feed(&mut self, event: Event) {
        self.agent.handle(at(self.ms), event);
        self.done.extend(self.agent.take_actions());
    }

    /// Time passes; timers ring when they are due.
    fn pass(&mut self, ms: u64) {
        let until = self.ms + ms;
        let mut at_once = 0;
        loop {
            let due =
                self.agent.next_timeout().map_or(u128::from(u64::MAX), |t| t.as_nanos().div_ceil(1_000_000));
            let due = u64::try_from(due).unwrap();
            if due > until {
                break;
            }
            // What an event began may be due at once, but not for ever.
            at_once = if due > self.ms { 0 } else { at_once + 1 };
            assert!(at_once < 5, "a timer stays in the past: {due} at {}", self.ms);
            self.ms = due.max(self.ms);
            self.feed(Event::Timer);
        }
        self.ms = until;
    }

    fn announce(&mut self, terms: Terms, notice: Notice) {
        self.feed(said(terms));
        self.feed(said(notice));
    }

    fn sent<T>(&mut self, of: impl Fn(&GuestToHost) -> Option<T>) -> Vec<T> {
        let all = self.done.iter().filter_map(|a| if let Action::Send(m) = a { of(m) } else { None });
        all.collect()
    }

    fn ready(&mut self) -> usize {
        self.sent(|m| matches!(m, GuestToHost::Ready(_)).then_some(())).len()
    }

    fn holds(&mut self) -> Vec<guest_to_host::Hold> {
        self.sent(|m| if let GuestToHost::Hold(h) = m { Some(*h) } else { None })
    }

    fn postponed(&mut self) -> Vec<guest_to_host::Postpone> {
        self.sent(|m| if let GuestToHost::Postpone(p) = m { Some(*p) } else { None })
    }

    fn asked(&mut self) -> Vec<coms_protocol::guest_to_host::Request> {
        self.sent(|m| if let GuestToHost::Request(r) = m { Some(r.clone()) } else { None })
    }

    fn told(&self, event: &str) -> usize {
        told(&self.done, event).iter().filter(|t| t.to == Audience::Everybody).count()
    }

    fn reply(&self) -> &Value {
        let last = self
            .done
            .iter()
            .rev()
            .find_map(|a| if let Action::Reply { line, .. } = a { Some(line) } else { None });
        last.unwrap()
    }
}

#[test]
fn nobody_to_ask_means_ready_at_once_and_a_notice_without_time_means_no_word() {
    let mut t = Talk::new("");
    t.announce(terms(1000, 0), notice(5000, Initiator::Random));
    assert_eq!(t.ready(), 1);
    assert!(t.agent.moving.is_some(), "it begins");
    // What the operator gives unasked is a person's time, and runs out.
    let mut t = Talk::new("");
    t.announce(terms(1000, 0), notice(5000, Initiator::Operator));
    assert_eq!((t.ready(), t.agent.moving.is_some()), (0, false));
    let mut t = Talk::new("");
    t.feed(said(notice(0, Initiator::Foreign)));
    assert_eq!((t.ready(), t.told("notice")), (0, 1));
    assert!(t.agent.moving.is_some());
}

#[test]
fn another_broker_is_told_anew_what_is_wanted() {
    let mut t = Talk::new("");
    t.feed(register(1, 5, 10));
    let attend =
        |m: &GuestToHost| if let GuestToHost::Attend(a) = m { Some((a.notice_ms, a.hold_ms)) } else { None };
    assert_eq!(t.sent(attend), [(0, 0), (5000, 10_000)]);
    t.feed(met("b"));
    assert_eq!(t.sent(attend).len(), 3);
    t.feed(Event::ClientGone(ClientId(1)));
    assert_eq!(t.sent(attend).last(), Some(&(0, 0)));
    t.feed(met("c"));
    assert_eq!(t.sent(attend).len(), 5, "nothing is wanted: that is said too");
    assert_eq!(t.sent(attend).last(), Some(&(0, 0)));
}

#[test]
fn a_move_far_away_is_not_ticked_through_and_asked_about_in_time() {
    let mut t = Talk::new("");
    t.feed(register(1, 10, 10));
    t.announce(terms(10_000, 3600), notice(10_000, Initiator::Operator));
    t.feed(command(2, Command::Postpone(Postpone { migration: ID, for_s: 3000 })));
    t.feed(said(Verdict { migration: ID, asked: Asked::Postpone, granted: true, starts_in_ms: 3_000_000 }));
    assert_eq!(t.reply()["ok"], true);
    t.announce(terms(3_010_000, 600), notice(3_000_000, Initiator::Operator));
    assert!(t.agent.moving.is_none() && t.agent.announced.as_ref().unwrap().round().is_none());
    t.feed(command(1, Command::Ready(Ready::default())));
    assert_eq!(t.reply()["ok"], false, "not asked yet");
    t.pass(2_995_000);
    assert!(t.agent.announced.as_ref().unwrap().round().is_some());
    assert!(told(&t.done, "notice").iter().any(|n| n.to == Audience::Apps));
    t.pass(6_000);
    assert_eq!((t.ready(), t.agent.moving.is_some()), (0, true), "the notice ended by itself");
}

#[test]
fn a_postponement_that_needs_no_later_beginning_is_not_undone_by_ready() {
    let mut t = Talk::new("");
    t.feed(register(1, 10, 0));
    t.announce(terms(60_000, 3600), notice(60_000, Initiator::Operator));
    t.feed(command(2, Command::Postpone(Postpone { migration: ID, for_s: 30 })));
    t.feed(said(Verdict { migration: ID, asked: Asked::Postpone, granted: true, starts_in_ms: 60_000 }));
    t.feed(command(1, Command::Ready(Ready::default())));
    t.pass(50_000);
    assert_eq!((t.ready(), t.agent.moving.is_some()), (0, false));
    t.pass(11_000);
    assert!(t.agent.moving.is_some(), "then it begins");
}

#[test]
fn closed_windows_put_an_operators_move_off_but_not_ones_own_and_not_an_expedited_one() {
    // At 1_700_000_000 it is Tuesday, 22:13 in UTC.
    let text = "[windows]\ntime_zone = \"UTC\"\nwelcome = [\"daily 23:00-24:00\"]\n";
    let mut t = Talk::new(text);
    t.announce(terms(0, 86_400), notice(2000, Initiator::Operator));
    let wait = t.postponed()[0];
    assert_eq!((wait.cause, wait.for_s), (Cause::Window, 46 * 60 + 40));
    assert_eq!(t.ready(), 0);
    t.feed(said(Verdict { migration: ID, asked: Asked::Postpone, granted: true, starts_in_ms: 2_800_000 }));
    t.announce(terms(0, 0), notice(2_800_000, Initiator::Operator));
    t.pass(2_799_000);
    assert_eq!((t.ready(), t.postponed().len()), (0, 1), "it begins when the window opens");

    // Not granted, or no verdict: applications are asked, and nothing hastens it.
    for verdict in [true, false] {
        let mut t = Talk::new(text);
        t.feed(register(1, 5, 5));
        t.announce(terms(0, 86_400), notice(20_000, Initiator::Operator));
        if verdict {
            t.feed(said(Verdict {
                migration: ID,
                asked: Asked::Postpone,
                granted: false,
                starts_in_ms: 20_000,
            }));
        }
        t.pass(16_000);
        assert!(t.agent.announced.as_ref().unwrap().round().is_some(), "in time");
        t.feed(command(1, Command::Ready(Ready::default())));
        t.pass(5_000);
        assert_eq!((t.ready(), t.agent.moving.is_some()), (0, true));
    }

    let mut t = Talk::new(text);
    t.announce(Terms { expedited: true, ..terms(0, 86_400) }, notice(2000, Initiator::Operator));
    assert!(t.postponed().is_empty());
    let mut t = Talk::new(text);
    t.announce(terms(0, 86_400), notice(2000, Initiator::Customer));
    assert!(t.postponed().is_empty());
    let mut t = Talk::new(text);
    t.announce(terms(0, 60), notice(2000, Initiator::Operator));
    assert_eq!(
        (t.postponed().len(), t.told("window_overridden")),
        (0, 1),
        "further away than the host waits"
    );
    let mut t = Talk::new(text);
    t.announce(Terms { may_veto: true, ..terms(0, 60) }, notice(2000, Initiator::Random));
    assert_eq!(t.sent(|m| matches!(m, GuestToHost::Veto(_)).then_some(())).len(), 1);
}

#[test]
fn rules_do_not_ask_in_closed_windows_and_windows_can_be_changed_while_it_runs() {
    let windows = "[windows]\ntime_zone = \"UTC\"\nunwelcome = [\"tue 22:00-23:00\"]\n";
    let mut agent =
        Agent::new(config(&format!("{windows}{WATCHED}")), State::new(5), &BTreeSet::new(), 9, at(0));
    agent.handle(at(1), met("a"));
    assert!(run(&mut agent, 100, 2000, [1, 1]).is_empty());
    assert!(run(&mut agent, 2000, 20_000, [90, 20]).is_empty());
    agent.handle(at(20_000), command(1, Command::Window(Window::Open { for_s: 60 })));
    assert_eq!(run(&mut agent, 20_001, 22_000, [90, 20]).len(), 1);
    // Set, kept, and reset.
    let set = crate::calendar::Windows { welcome: vec!["mon 03:00-04:00".into()], ..Default::default() };
    agent.handle(at(22_000), command(1, Command::Window(Window::Set(set.clone()))));
    assert_eq!(agent.state().windows, Some(set));
    let again = Agent::new(config(windows), agent.state().clone(), &BTreeSet::new(), 9, at(100_000));
    assert_eq!(again.calendar().text.welcome, ["mon 03:00-04:00"]);
    agent.handle(at(23_000), command(1, Command::Window(Window::Reset)));
    assert_eq!(agent.calendar().text.unwelcome, ["tue 22:00-23:00"]);
}

#[test]
fn a_scheduled_move_is_asked_for_when_its_time_comes_also_after_a_restart() {
    let at_time = |text: &str| Command::Migrate(Migrate { at: Some(text.into()), ..Migrate::default() });
    let mut t = Talk::new("[windows]\ntime_zone = \"UTC\"\n");
    t.feed(command(1, at_time("22:00")));
    assert_eq!(t.reply()["from"], "2023-11-15T22:00:00.000Z", "tomorrow's");
    t.feed(command(1, at_time("22:15")));
    assert_eq!((t.reply()["ok"].clone(), t.asked().len()), (true.into(), 0));
    let disk = t.agent.state().clone();
    let mut t = Talk::with("", disk);
    t.pass(99_000);
    assert!(t.asked().is_empty());
    t.pass(2_000);
    let asked = t.asked();
    assert_eq!(
        (asked.len(), asked[0].reason, asked[0].wishes.deadline_s),
        (1, RequestReason::Schedule, Some(3600))
    );
    // Denied: asked for again. Completed: over.
    let m = Denied { request: asked[0].id, reason: DenyReason::NoDestination, retry_after_s: None };
    t.feed(said(m));
    t.pass(59_000);
    assert_eq!(t.asked().len(), 1);
    t.pass(2_000);
    let again = t.asked()[1].id;
    t.feed(said(completed(ID, Some(again))));
    t.pass(120_000);
    assert_eq!(
        (t.asked().len(), t.agent.state().schedules.len()),
        (2, 1),
        "the other one waits for tomorrow"
    );
}

#[test]
fn a_move_within_a_time_waits_for_the_window_and_is_missed_in_the_end() {
    let within = |s| Command::Migrate(Migrate { within_s: Some(s), ..Migrate::default() });
    let mut t = Talk::new("[windows]\ntime_zone = \"UTC\"\nwelcome = [\"daily 23:00-24:00\"]\n");
    t.feed(command(1, within(600)));
    assert!(t.reply()["error"].as_str().unwrap().contains("--outside-windows"), "{}", t.reply());
    t.feed(command(1, within(7200)));
    assert_eq!(t.reply()["ok"], true);
    t.pass(2_799_000);
    assert!(t.asked().is_empty());
    t.pass(2_000);
    let asked = t.asked();
    assert_eq!(asked.len(), 1);
    t.feed(command(1, Command::Cancel(Cancel::default())));
    let by = Initiator::Customer;
    t.feed(said(Cancelled { migration: ID, request: Some(asked[0].id), by, figures: Figures::default() }));
    assert_eq!(
        (t.told("schedule_dropped"), t.agent.state().schedules.len()),
        (1, 0),
        "called off is called off"
    );

    let mut t = Talk::new("");
    t.feed(Event::Link(Session::Lost));
    t.feed(command(1, within(60)));
    t.pass(61_000);
    assert_eq!((t.told("schedule_missed"), t.asked().len()), (1, 0));
}

#[test]
fn a_move_that_nobody_tells_of_is_seen_from_inside_also_across_a_restart() {
    let mut t = Talk::new("");
    t.feed(met("b"));
    t.pass(19_000);
    assert_eq!(t.told("moved_unannounced"), 0);
    let disk = t.agent.state().clone();
    t.pass(2_000);
    assert_eq!(t.told("moved_unannounced"), 1);
    assert_eq!(t.agent.state().history.back().unwrap().why.as_deref(), Some("seen-from-inside"));
    // Told after all: once in the history.
    t.feed(said(Completed { to: hello("b").place, ..completed(ID, None) }));
    assert_eq!(t.agent.state().history.len(), 1);

    let mut again = Talk::with("", disk);
    again.feed(met("b"));
    again.pass(21_000);
    assert_eq!(again.told("moved_unannounced"), 1);
    // Told in time, and back again before anybody could wonder.
    let mut t = Talk::new("");
    t.feed(met("b"));
    t.feed(said(Completed { to: hello("b").place, ..completed(ID, None) }));
    t.pass(30_000);
    t.feed(met("c"));
    t.feed(met("b"));
    t.pass(30_000);
    assert_eq!(t.told("moved_unannounced"), 0);
}

#[test]
fn a_real_move_ends_a_simulation() {
    let mut t = Talk::new("");
    t.feed(register(1, 30, 30));
    t.feed(command(2, Command::Simulate(Simulate::default())));
    t.announce(terms(1000, 0), notice(60_000, Initiator::Operator));
    let cancelled = told(&t.done, "cancelled");
    assert!(cancelled.iter().all(|c| c.fields["simulated"] == true && c.fields["why"] == "a-real-move"));
    assert_eq!(t.agent.announced.as_ref().unwrap().migration(), ID);
    t.feed(command(3, Command::Veto(Veto { migration: ID })));
    assert!(t.reply()["error"].as_str().unwrap().contains("does not let"));
    t.feed(command(3, Command::Postpone(Postpone { migration: MigrationId(1), for_s: 5 })));
    assert!(t.reply()["error"].as_str().unwrap().contains(&ID.to_string()));
}

#[derive(Debug, Clone)]
enum Step {
    Register(u64, u32, u32),
    Gone(u64),
    Ready(u64),
    Hold(u64, u32),
    Ran(i32),
    Verdict(bool),
    Lost,
    Met,
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 1..4u64;
    let one = prop_oneof![
        2 => (who.clone(), 0..30u32, 0..60u32).prop_map(|(c, n, h)| Step::Register(c, n, h)),
        1 => who.clone().prop_map(Step::Gone),
        2 => who.clone().prop_map(Step::Ready),
        3 => (who, 0..90u32).prop_map(|(c, f)| Step::Hold(c, f)),
        1 => prop::sample::select(vec![0, 1, 75]).prop_map(Step::Ran),
        1 => any::<bool>().prop_map(Step::Verdict),
        1 => Just(Step::Lost),
        1 => Just(Step::Met),
        4 => (100..15_000u64).prop_map(Step::Pass),
    ];
    prop::collection::vec(one, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_host_hears_ready_once_or_nothing_and_no_hold_beyond_the_terms(
        before in prop::collection::vec((1..4u64, 0..30u32, 0..60u32), 0..3),
        starts_in in 0..60_000u32, hold in 0..90_000u32, script in steps(),
    ) {
        let asked = "[[asked]]\nname = \"c\"\nbefore = [\"/bin/true\"]\ntimeout_s = 10\nhold_s = 20\nretry_s = 3\n";
        let mut t = Talk::new(asked);
        for (c, n, h) in before {
            t.feed(register(c, n, h));
        }
        t.announce(terms(hold, 0), notice(starts_in, Initiator::Operator));
        let begun = t.ms;
        let mut here: BTreeSet<u64> = t.agent.apps.keys().map(|c| c.0).collect();
        for step in script {
            match step {
                Step::Register(c, n, h) => { t.feed(register(c, n, h)); here.insert(c); }
                Step::Gone(c) => { t.feed(Event::ClientGone(ClientId(c))); here.remove(&c); }
                Step::Ready(c) => t.feed(command(c, Command::Ready(Ready::default()))),
                Step::Hold(c, for_s) => t.feed(command(c, Command::Hold(Hold { migration: None, for_s }))),
                Step::Ran(code) => {
                    let run = t.done.iter().rev().find_map(|a| if let Action::Run { run, .. } = a { Some(*run) } else { None });
                    let ran = Ran { run: run.unwrap_or(0), name: "c".into(), exit_code: Some(code), how: Map::new() };
                    t.feed(Event::Ran(ran));
                }
                Step::Verdict(granted) => {
                    let starts_in_ms = u64::from(hold).saturating_sub(t.ms - begun);
                    t.feed(said(Verdict { migration: ID, asked: Asked::Hold, granted, starts_in_ms }));
                }
                Step::Lost => t.feed(Event::Link(Session::Lost)),
                Step::Met => t.feed(met("a")),
                Step::Pass(ms) => t.pass(ms),
            }
            let asked: Vec<_> = t.agent.announced.iter().filter_map(|a| a.round()).flat_map(|r| r.parties()).map(|(p, _)| p.clone()).collect();
            for party in asked {
                if let crate::decide::round::Party::App(c) = party {
                    prop_assert!(here.contains(&c.0), "who left is not waited for");
                }
            }
        }
        for h in t.holds() {
            prop_assert!(h.for_ms <= hold.max(1), "{:?} of {}", h, hold);
        }
        // In the end nobody is waited for: ready was said, or the notice has ended.
        t.feed(met("a"));
        t.pass(300_000);
        let over = t.agent.announced.as_ref().is_none_or(|a| a.round().is_none_or(|r| r.is_over()));
        prop_assert!(over);
        prop_assert!(t.ready() <= 1);
        prop_assert!(t.agent.moving.is_some(), "it began, for all that is known here");
    }
}
