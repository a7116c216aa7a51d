//! How far regions are from each other, and what a guest is told of them. Milliseconds that the operator says and
//! kilometres over the globe are never compared with each other.

use super::Broker;
use crate::action::Action;
use crate::config::Config;
use coms_protocol::host_to_guest::Regions;
use coms_protocol::types::{Coordinates, List, RegionEntry, Text};
use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

const EARTH_KM: f64 = 6371.0;

/// How far two regions are from each other: the operator's word, or else the way over the globe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Apart {
    Ms(u32),
    Km(u32),
}

impl Apart {
    pub const NONE: Self = Self::Ms(0);

    /// What the operator says goes before what the globe says.
    pub fn rank(self) -> (u8, u32) {
        match self {
            Self::Ms(ms) => (0, ms),
            Self::Km(km) => (1, km),
        }
    }
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ms(ms) => write!(f, "{ms} ms"),
            Self::Km(km) => write!(f, "{km} km as the crow flies"),
        }
    }
}

/// All that is known of the distance between two regions: by the operator's table, and by their coordinates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    pub ms: Option<u32>,
    pub km: Option<u32>,
}

impl Known {
    /// In the region itself.
    pub const SAME: Self = Self { ms: Some(0), km: Some(0) };

    /// Nearer than `other`, and how far both are; None: cannot be told. The operator's table counts where it has both.
    pub fn nearer_than(self, other: Self) -> Option<(bool, Apart, Apart)> {
        if self == Self::SAME {
            return Some((other != Self::SAME, Apart::NONE, Apart::NONE));
        }
        match (self.ms.zip(other.ms), self.km.zip(other.km)) {
            (Some((a, b)), _) => Some((a < b, Apart::Ms(a), Apart::Ms(b))),
            (None, Some((a, b))) => Some((a < b, Apart::Km(a), Apart::Km(b))),
            (None, None) => None,
        }
    }
}

pub fn known(config: &Config, a: &str, b: &str) -> Known {
    if a == b {
        return Known::SAME;
    }
    let said = config.distances.iter().find(|d| (d.from == a && d.to == b) || (d.from == b && d.to == a));
    let at = |name: &str| config.regions.iter().find(|r| r.name == name).and_then(|r| r.at);
    Known { ms: said.map(|d| d.ms), km: at(a).zip(at(b)).map(|(a, b)| km(a, b)) }
}

/// The great circle (haversine).
fn km(a: Coordinates, b: Coordinates) -> u32 {
    let radians = |cdeg: i16| (f64::from(cdeg) / 100.0).to_radians();
    let (lat_a, lat_b) = (radians(a.latitude_cdeg), radians(b.latitude_cdeg));
    let half = |x: f64| (x / 2.0).sin().powi(2);
    let h = half(lat_b - lat_a)
        + lat_a.cos() * lat_b.cos() * half(radians(b.longitude_cdeg) - radians(a.longitude_cdeg));
    // Rounding may carry it beyond 1.
    (2.0 * EARTH_KM * h.sqrt().min(1.0).asin()).round() as u32
}

impl Broker {
    /// The operator's regions, and those of hosts that the table does not name. One that takes no part learns of none
    /// but its own.
    pub(super) fn regions_for(&mut self, uuid: Uuid, number: u64) {
        let Some(guest) = self.guests.get(&uuid) else { return };
        let own = self.config.me.region.clone();
        let mut all: Vec<RegionEntry> = (self.config.regions.iter())
            .map(|r| RegionEntry {
                name: Text::clipped(&r.name),
                at: r.at,
                countries: List::clipped(r.countries.iter().copied()),
            })
            .collect();
        for host in std::iter::once(&self.config.me).chain(&self.config.peers) {
            if !all.iter().any(|r| r.name.as_str() == host.region) {
                let name = Text::clipped(&host.region);
                all.push(RegionEntry { name, at: None, countries: List::default() });
            }
        }
        if !self.takes_part(&guest.domain) {
            all.retain(|r| r.name.as_str() == own);
        }
        let number_of_all = u16::try_from(all.len()).unwrap_or(u16::MAX);
        let message = Regions { number, regions: List::clipped(all), all: number_of_all }.into();
        self.out.push(Action::TellOnce { uuid, message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_over_the_globe() {
        let at = |latitude_cdeg, longitude_cdeg| Coordinates { latitude_cdeg, longitude_cdeg };
        // Paris and Stockholm, as the law of cosines has it; over the date line; from pole to pole.
        assert_eq!(km(at(4886, 235), at(5933, 1807)), 1543);
        assert_eq!(km(at(0, 17950), at(0, -17950)), 111);
        assert_eq!(km(at(9000, 0), at(-9000, 1234)), 20015);
    }

    #[test]
    fn the_operators_word_counts_before_the_globe_and_never_against_it() {
        let k = |ms, km| Known { ms, km };
        let by = |a: Known, b: Known| a.nearer_than(b);
        assert_eq!(by(k(Some(5), Some(900)), k(Some(9), Some(100))).map(|n| n.0), Some(true));
        assert_eq!(by(k(None, Some(900)), k(Some(9), Some(100))).map(|n| n.0), Some(false));
        assert_eq!(by(k(Some(5), None), k(None, Some(100))), None);
        assert_eq!(
            by(Known::SAME, k(None, None)).map(|n| n.0),
            Some(true),
            "the region itself needs no table"
        );
        assert_eq!(by(Known::SAME, Known::SAME).map(|n| n.0), Some(false));
        assert_eq!(by(k(None, None), k(None, None)), None);
        assert_eq!(by(k(Some(9), None), k(Some(9), None)).map(|n| n.0), Some(false), "strictly");
    }
}
