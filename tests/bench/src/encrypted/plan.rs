//! Which moves are made, in which order, and about how long that takes. Nothing here acts.

use rand::Rng;
use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What the guest does meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    Idle,
    /// It sends to a peer.
    Busy,
}

/// How its memory travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    Plain,
    Tls,
    /// TLS, and the destination's QEMU finds no Diffie-Hellman group beside its certificates: it makes one.
    TlsOwnGroup,
    /// Over two connections, by threads of their own.
    PlainMultifd,
    TlsMultifd,
    /// In the clear, through a forwarded port of ssh.
    Ssh,
}

/// One kind of move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    pub load: Load,
    pub way: Way,
    /// Whether the link is slower than the hosts.
    pub capped: bool,
}

/// What a move is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Everything is used once; does not count.
    WarmUp,
    /// Plain against TLS, pair by pair.
    Pairs,
    /// Reported beside, without a goal.
    Beside,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub part: Part,
    pub case: Case,
    /// Which pair, or which round of those beside; from 1.
    pub round: usize,
}

/// How much of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub pairs: usize,
    pub beside: usize,
    /// What the capped link carries each way.
    pub link_mbit_s: u32,
    /// Random bytes in the guest's memory.
    pub filled_mib: usize,
    /// What a busy guest sends.
    pub busy_mbit_s: u32,
}

/// What is compared in rounds, in whichever order. What does not need a link that is slower than the hosts does without one,
/// and takes half the time.
pub const BESIDE: [Case; 7] = {
    const fn case(way: Way, capped: bool) -> Case {
        Case { load: Load::Idle, way, capped }
    }
    [
        case(Way::Plain, false),
        case(Way::PlainMultifd, false),
        case(Way::Tls, false),
        case(Way::TlsMultifd, false),
        case(Way::Ssh, false),
        case(Way::TlsOwnGroup, false),
        case(Way::Ssh, true),
    ]
};

/// All moves. Of the two orders of a pair each comes equally often, but nobody can tell when: a pair's first move always goes
/// the same way, and whatever comes in rhythms must not meet one side only.
pub fn plan(settings: &Settings, random: &mut impl Rng) -> Vec<Step> {
    let mut steps = Vec::new();
    for load in [Load::Idle, Load::Busy] {
        let mut pair = |part, round, ways: [Way; 2]| {
            let step = |way| Step { part, case: Case { load, way, capped: true }, round };
            steps.extend(ways.map(step));
        };
        pair(Part::WarmUp, 1, [Way::Plain, Way::Tls]);
        let mut orders: Vec<_> = [[Way::Plain, Way::Tls], [Way::Tls, Way::Plain]]
            .into_iter()
            .cycle()
            .take(settings.pairs)
            .collect();
        orders.shuffle(random);
        for (number, ways) in orders.into_iter().enumerate() {
            pair(Part::Pairs, number + 1, ways);
        }
    }
    for round in 1..=settings.beside {
        let mut cases = BESIDE;
        cases.shuffle(random);
        steps.extend(cases.map(|case| Step { part: Part::Beside, case, round }));
    }
    steps
}

/// What a guest has in memory beside what is filled in.
const SYSTEM_MIB: f64 = 86.0;
/// What of a link is left for memory.
const PAYLOAD: f64 = 0.95;
/// What libvirt and QEMU do before and after, and the rest in between.
const AROUND_S: f64 = 3.1;
/// Memory on an uncapped link, by the slowest way.
const UNCAPPED_MIB_S: f64 = 250.0;

/// About how long these moves take.
pub fn expected(steps: &[Step], settings: &Settings) -> Duration {
    let mib = settings.filled_mib as f64 + SYSTEM_MIB;
    let capped_mib_s = f64::from(settings.link_mbit_s) * PAYLOAD * 1e6 / 8.0 / f64::from(1 << 20);
    let each = |step: &Step| {
        let mib_s = if step.case.capped { capped_mib_s.min(UNCAPPED_MIB_S) } else { UNCAPPED_MIB_S };
        AROUND_S + mib / mib_s
    };
    Duration::from_secs_f64(steps.iter().map(each).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encrypted::DEFAULTS;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    fn drawn(settings: &Settings) -> Vec<Step> {
        plan(settings, &mut StdRng::seed_from_u64(3))
    }

    #[test]
    fn the_whole_of_it_is_done_in_25_minutes() {
        // A minute is for hosts and guest.
        let took = expected(&drawn(&DEFAULTS), &DEFAULTS);
        assert!(took < Duration::from_secs(24 * 60), "{took:?}");
    }

    #[test]
    fn each_pair_is_plain_and_tls_one_after_the_other_and_both_orders_are_as_frequent() {
        let steps = drawn(&DEFAULTS);
        for load in [Load::Idle, Load::Busy] {
            let ours: Vec<&Step> =
                steps.iter().filter(|s| s.part == Part::Pairs && s.case.load == load).collect();
            assert_eq!(ours.len(), 2 * DEFAULTS.pairs);
            let mut plain_first = 0;
            for pair in ours.chunks(2) {
                assert_eq!(pair[0].round, pair[1].round);
                assert_ne!(pair[0].case.way, pair[1].case.way);
                plain_first += usize::from(pair[0].case.way == Way::Plain);
            }
            assert_eq!(plain_first, DEFAULTS.pairs / 2);
            // Drawn, not in turns.
            assert!(ours.chunks(4).any(|two| two[0].case.way == two[2].case.way));
        }
    }

    #[test]
    fn each_case_beside_comes_once_a_round() {
        let steps = drawn(&Settings { pairs: 1, beside: 4, ..DEFAULTS });
        for case in BESIDE {
            let rounds: Vec<usize> =
                steps.iter().filter(|s| s.part == Part::Beside && s.case == case).map(|s| s.round).collect();
            assert_eq!(rounds, [1, 2, 3, 4], "{case:?}");
        }
    }
}
