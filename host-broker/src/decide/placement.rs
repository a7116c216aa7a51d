//! Where to: the least loaded host that answers and can run the domain; for one that follows its clients the nearest to
//! them first. Every host gets its reason, the refused ones too.

use super::geo::{Apart, Known};
use super::load::Load;
use crate::storage::{Refusal, RefusalKind};
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
    /// How far its region is from the wished one.
    pub from_wish: Known,
    /// Why the domain could not be reached there, if so; for the operator.
    pub cut_off: Option<String>,
    /// Why a move there would not be encrypted as it must be, if so; for the operator.
    pub not_encrypted: Option<String>,
    /// Whether it can go there with its disks and devices.
    pub storage: Result<(), Refusal>,
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
    /// The wished region need not be reached: how far it is from here, and only nearer hosts will do. None: it must.
    pub nearer_than: Option<Known>,
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
    /// Nearest to the wished region of the eligible, and fit.
    Nearest {
        apart: Apart,
        load: Option<f64>,
    },
    /// Eligible and nearer than here; another one went first.
    Nearer {
        apart: Apart,
        load: Option<f64>,
    },
    /// Not nearer to the wished region than here.
    Farther {
        apart: Apart,
        here: Apart,
    },
    DistanceUnknown,
    /// At another site, where the VM's clients could not reach it.
    CutOff {
        detail: String,
    },
    /// A move there would not be encrypted, and it must be.
    NotEncryptable {
        detail: String,
    },
    /// The way there was measured, or could not be.
    LinkUnfit {
        rtt_ms: Option<f64>,
        rate_mib_s: Option<f64>,
        detail: String,
    },
    /// The migration network does not lead there now, and no other way is taken.
    MigrationLinkDown {
        detail: String,
    },
    /// The network could not be stretched there.
    NetworkRefused {
        detail: String,
    },
    /// The domain cannot go there with what it has: its disks, its devices.
    StorageUnfit {
        kind: RefusalKind,
        detail: String,
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
    /// All that would do, the chosen one first.
    pub ranked: Vec<String>,
    pub considered: Vec<Considered>,
}

impl Decision {
    /// Nothing was wrong with some host but its region.
    pub fn only_region_in_the_way(&self) -> bool {
        self.considered.iter().any(|c| matches!(c.verdict, Verdict::OtherRegion))
    }

    /// Nothing was wrong with some host but that it is no nearer.
    pub fn only_distance_in_the_way(&self) -> bool {
        self.considered.iter().any(|c| matches!(c.verdict, Verdict::Farther { .. }))
    }

    /// Nothing was wrong with some host but that nobody can say how far it is.
    pub fn only_the_table_in_the_way(&self) -> bool {
        self.considered.iter().any(|c| matches!(c.verdict, Verdict::DistanceUnknown))
    }

    /// Nothing was wrong with some host but that the domain could not be reached there.
    pub fn only_its_network_in_the_way(&self) -> bool {
        self.considered.iter().any(|c| matches!(c.verdict, Verdict::CutOff { .. }))
    }

    /// Nothing was wrong with some host but that a move there would not be encrypted.
    pub fn only_encryption_in_the_way(&self) -> bool {
        self.considered.iter().any(|c| matches!(c.verdict, Verdict::NotEncryptable { .. }))
    }

    /// Nothing was wrong with some host but what the domain would take there.
    pub fn only_storage_in_the_way(&self) -> Option<Refusal> {
        let unfit = |c: &Considered| {
            let Verdict::StorageUnfit { kind, detail } = &c.verdict else { return None };
            Some(Refusal { kind: *kind, detail: format!("{}: {detail}", c.host) })
        };
        self.considered.iter().find_map(unfit)
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
    let mut fit = Vec::new();
    for (i, c) in candidates.iter().enumerate() {
        let verdict = match eligible(c, demand) {
            Err(why) => why,
            Ok((load, apart)) => {
                // A host not seen for long enough comes after all whose load is known.
                fit.push((apart.map(Apart::rank), load.per_cpu.unwrap_or(f64::MAX), load.committed_kib, i));
                match apart {
                    Some(apart) => Verdict::Nearer { apart, load: load.per_cpu },
                    None => Verdict::Busier { load: load.per_cpu, committed_kib: load.committed_kib },
                }
            }
        };
        considered.push(Considered { host: c.name.clone(), verdict });
    }
    fit.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
    let ranked: Vec<String> = fit.iter().map(|(.., i)| candidates[*i].name.clone()).collect();
    let chosen = ranked.first().cloned();
    if let Some(chosen) = &chosen {
        take(&mut considered, chosen);
    }
    Decision { chosen, ranked, considered }
}

/// The first choice, or the next one after that did not do.
pub(super) fn take(considered: &mut [Considered], chosen: &str) {
    let Some(line) = considered.iter_mut().find(|c| c.host == chosen) else { return };
    if let Verdict::Busier { load, committed_kib } = line.verdict {
        line.verdict = Verdict::Chosen { load, committed_kib };
    } else if let Verdict::Nearer { apart, load } = line.verdict {
        line.verdict = Verdict::Nearest { apart, load };
    }
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
    Decision { ranked: chosen.iter().cloned().collect(), chosen, considered }
}

/// With how far it is from the wished region, where that ranks.
fn eligible<'a>(c: &'a Candidate, demand: &Demand) -> Result<(&'a Load, Option<Apart>), Verdict> {
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
    // Last, so that "nothing but this" means what it says: its region, its network, its disks, then encryption.
    let apart = match demand.nearer_than {
        Some(here) => match c.from_wish.nearer_than(here) {
            Some((true, there, _)) => Some(there),
            Some((false, apart, here)) => return Err(Verdict::Farther { apart, here }),
            None => return Err(Verdict::DistanceUnknown),
        },
        None if demand.region.as_ref().is_some_and(|wish| *wish != c.region) => {
            return Err(Verdict::OtherRegion);
        }
        None => None,
    };
    if let Some(detail) = &c.cut_off {
        return Err(Verdict::CutOff { detail: detail.clone() });
    }
    if let Err(Refusal { kind, detail }) = &c.storage {
        return Err(Verdict::StorageUnfit { kind: *kind, detail: detail.clone() });
    }
    match &c.not_encrypted {
        Some(detail) => Err(Verdict::NotEncryptable { detail: detail.clone() }),
        None => Ok((load, apart)),
    }
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
            from_wish: Known::default(),
            cut_off: None,
            not_encrypted: None,
            storage: Ok(()),
        }
    }

    fn any() -> Demand {
        Demand { memory_kib: 1 << 20, region: None, only: None, relief: None, nearer_than: None }
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
