//! Where to: the least loaded host that answers and can run the domain. Every host gets its reason, the
//! refused ones too.

use super::load::Load;
use serde::{Deserialize, Serialize};

/// A host as placement sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub name: String,
    pub region: String,
    /// None: does not answer.
    pub load: Option<Load>,
    /// What its libvirt says to this domain; the text is for the operator.
    pub can_run: Result<(), String>,
    /// A domain of this identity is there already.
    pub has_it: bool,
    /// A broker is there to tell the guest how it went.
    pub has_broker: bool,
}

/// What is wanted of a destination.
#[derive(Debug, Clone, PartialEq)]
pub struct Demand {
    pub memory_kib: u64,
    pub region: Option<String>,
    /// Only this host will do (`comsctl migrate --to`).
    pub only: Option<String>,
    /// Load per CPU where the domain is now, and how much lower it must be there. None: any host will do.
    pub relief: Option<(f64, f64)>,
}

/// Why a host is or is not the one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// Least loaded of the eligible.
    Chosen {
        load: Option<f64>,
        committed_kib: u64,
    },
    /// Eligible, busier than the chosen one.
    Busier {
        load: Option<f64>,
        committed_kib: u64,
    },
    NoAnswer,
    CannotRun {
        detail: String,
    },
    HasItAlready,
    /// Its broker shows no sign of life: nobody would be there to tell the guest.
    NoBroker,
    TooLittleMemory {
        free_kib: u64,
        needed_kib: u64,
    },
    OtherRegion,
    NotTheOneAskedFor,
    /// Random moves do not go there.
    NotInPool,
    /// Drawn among this many.
    Drawn {
        among: usize,
    },
    /// As good as the one that was drawn.
    NotDrawn,
    /// As busy as the host it would leave.
    NoRelief {
        load: f64,
        here: f64,
    },
}

/// One line of a decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Considered {
    pub host: String,
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// The outcome: the chosen host's name, and why each.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub chosen: Option<String>,
    pub considered: Vec<Considered>,
}

impl Decision {
    /// Nothing was wrong with some host but its region.
    pub fn only_region_in_the_way(&self) -> bool {
        self.considered.iter().any(|c| matches!(c.verdict, Verdict::OtherRegion))
    }

    /// Nothing was wrong with some host but its load.
    pub fn only_load_in_the_way(&self) -> bool {
        self.considered.iter().any(|c| matches!(c.verdict, Verdict::NoRelief { .. }))
    }
}

/// Room that stays free on a host, for QEMU's own needs.
const RESERVE_KIB: u64 = 64 * 1024;

pub fn choose(candidates: &[Candidate], demand: &Demand) -> Decision {
    let mut considered: Vec<Considered> = Vec::with_capacity(candidates.len());
    let mut best: Option<(f64, u64, usize)> = None;
    for (i, c) in candidates.iter().enumerate() {
        let verdict = match eligible(c, demand) {
            Err(why) => why,
            Ok(load) => {
                // A host not seen for long enough comes after all whose load is known.
                let rank = (load.per_cpu.unwrap_or(f64::MAX), load.committed_kib);
                if best.is_none_or(|(l, m, _)| rank < (l, m)) {
                    best = Some((rank.0, rank.1, i));
                }
                Verdict::Busier { load: load.per_cpu, committed_kib: load.committed_kib }
            }
        };
        considered.push(Considered { host: c.name.clone(), verdict });
    }
    let chosen = best.map(|(_, _, i)| i);
    if let Some(line) = chosen.and_then(|i| considered.get_mut(i))
        && let Verdict::Busier { load, committed_kib } = line.verdict
    {
        line.verdict = Verdict::Chosen { load, committed_kib };
    }
    Decision { chosen: chosen.map(|i| candidates[i].name.clone()), considered }
}

/// Else what is free and what would be needed, in KiB.
pub(super) fn has_room(load: &Load, memory_kib: u64) -> Result<(), (u64, u64)> {
    let free_kib = load.memory_kib.saturating_sub(load.committed_kib);
    let needed_kib = memory_kib + RESERVE_KIB;
    if free_kib < needed_kib { Err((free_kib, needed_kib)) } else { Ok(()) }
}

/// One of the fit hosts of the pool, each as likely as any other, however busy it is.
pub fn draw(candidates: &[Candidate], demand: &Demand, pool: &[String], drawn: u64) -> Decision {
    let verdict = |c: &Candidate| {
        if !pool.contains(&c.name) {
            return Verdict::NotInPool;
        }
        eligible(c, demand).map_or_else(|why| why, |_| Verdict::NotDrawn)
    };
    let mut considered: Vec<Considered> =
        candidates.iter().map(|c| Considered { host: c.name.clone(), verdict: verdict(c) }).collect();
    let among = considered.iter().filter(|c| c.verdict == Verdict::NotDrawn).count();
    // The upper half of the product: no host is more likely than another by more than 2^-64.
    let nth = ((u128::from(drawn) * among as u128) >> 64) as usize;
    let mut fit = considered.iter_mut().filter(|c| c.verdict == Verdict::NotDrawn);
    let chosen = fit.nth(nth).map(|line| {
        line.verdict = Verdict::Drawn { among };
        line.host.clone()
    });
    Decision { chosen, considered }
}

fn eligible<'a>(c: &'a Candidate, demand: &Demand) -> Result<&'a Load, Verdict> {
    if demand.only.as_ref().is_some_and(|only| *only != c.name) {
        return Err(Verdict::NotTheOneAskedFor);
    }
    let Some(load) = &c.load else { return Err(Verdict::NoAnswer) };
    if c.has_it {
        return Err(Verdict::HasItAlready);
    }
    if !c.has_broker {
        return Err(Verdict::NoBroker);
    }
    if let Err(detail) = &c.can_run {
        return Err(Verdict::CannotRun { detail: detail.clone() });
    }
    has_room(load, demand.memory_kib)
        .map_err(|(free_kib, needed_kib)| Verdict::TooLittleMemory { free_kib, needed_kib })?;
    if let (Some((here, gain)), Some(there)) = (demand.relief, load.per_cpu)
        && there + gain > here
    {
        return Err(Verdict::NoRelief { load: there, here });
    }
    // Last, so that "nothing but its region" means what it says.
    if demand.region.as_ref().is_some_and(|wish| *wish != c.region) {
        return Err(Verdict::OtherRegion);
    }
    Ok(load)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(name: &str, load: f64, committed_gib: u64, domains: usize) -> Candidate {
        Candidate {
            name: name.into(),
            region: "r".into(),
            load: Some(Load {
                cpus: 1,
                per_cpu: Some(load),
                memory_kib: 16 << 20,
                committed_kib: committed_gib << 20,
                domains,
            }),
            can_run: Ok(()),
            has_it: false,
            has_broker: true,
        }
    }

    fn any() -> Demand {
        Demand { memory_kib: 1 << 20, region: None, only: None, relief: None }
    }

    #[test]
    fn more_vms_but_less_load_wins() {
        let d = choose(&[host("busy", 0.9, 1, 1), host("full", 0.1, 4, 4)], &any());
        assert_eq!(d.chosen.as_deref(), Some("full"));
        assert_eq!(d.considered[0].verdict, Verdict::Busier { load: Some(0.9), committed_kib: 1 << 20 });
    }

    #[test]
    fn equal_load_is_decided_by_committed_memory() {
        assert_eq!(
            choose(&[host("a", 0.5, 4, 1), host("b", 0.5, 2, 9)], &any()).chosen.as_deref(),
            Some("b")
        );
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let mut silent = host("silent", 0.0, 0, 0);
        silent.load = None;
        let mut cannot = host("cannot", 0.0, 0, 0);
        cannot.can_run = Err("no such machine".into());
        let mut twin = host("twin", 0.0, 0, 0);
        twin.has_it = true;
        let mut far = host("far", 0.0, 0, 0);
        far.region = "elsewhere".into();
        let mut alone = host("alone", 0.0, 0, 0);
        alone.has_broker = false;
        let demand = Demand { region: Some("r".into()), relief: Some((1.0, 0.2)), ..any() };
        let d = choose(
            &[silent, cannot, twin, alone, host("full", 0.0, 16, 0), far, host("busy", 0.9, 0, 0)],
            &demand,
        );
        assert_eq!(d.chosen, None);
        let verdicts: Vec<_> = d
            .considered
            .iter()
            .map(|c| serde_json::to_value(&c.verdict).unwrap()["verdict"].clone())
            .collect();
        assert_eq!(
            verdicts,
            [
                "no-answer",
                "cannot-run",
                "has-it-already",
                "no-broker",
                "too-little-memory",
                "other-region",
                "no-relief"
            ]
        );
        assert!(d.only_region_in_the_way() && d.only_load_in_the_way());
    }

    proptest! {
        #[test]
        fn never_takes_a_busier_host_and_explains_all(loads in prop::collection::vec((0u32..400, 0u64..18), 0..8), relief in prop::option::of(0u32..400)) {
            let hosts: Vec<_> = loads.iter().enumerate().map(|(i, (l, m))| host(&i.to_string(), f64::from(*l) / 100.0, *m, 0)).collect();
            let demand = Demand { relief: relief.map(|r| (f64::from(r) / 100.0, 0.2)), ..any() };
            let d = choose(&hosts, &demand);
            prop_assert_eq!(d.considered.len(), hosts.len());
            let fits = |c: &&Candidate| eligible(c, &demand).is_ok();
            let least = hosts.iter().filter(fits).filter_map(|c| c.load.as_ref()?.per_cpu).fold(f64::INFINITY, f64::min);
            match &d.chosen {
                None => prop_assert!(!hosts.iter().any(|c| fits(&c))),
                Some(name) => {
                    let c = hosts.iter().find(|c| c.name == *name).unwrap();
                    prop_assert!(fits(&c));
                    prop_assert_eq!(c.load.as_ref().unwrap().per_cpu, Some(least));
                }
            }
        }
    }
}
