//! From an address to a region: which addresses are no client's, and which region a country or a place belongs to.

use coms_protocol::types::{Country, RegionEntry};
use std::net::IpAddr;

/// What a database knows of an address.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Located {
    /// Its country.
    pub country: Option<Country>,
    /// Latitude and longitude in degrees.
    pub at: Option<(f64, f64)>,
}

/// Private, own, loopback, link-local, shared by carriers (RFC 6598), multicast, or none at all: of such a peer no
/// database knows where it is. The address is canonical: no IPv4 in IPv6.
pub(super) fn is_nowhere(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private()
                || v4.is_link_local()
                || a == 0
                || a == 127
                || a >= 224
                || (a == 100 && b & 0xc0 == 64)
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            // 2000::/3 is all that is routed.
            first & 0xe000 != 0x2000
        }
    }
}

/// One client. Whoever has IPv6 has up to 2^80 addresses, and is one all the same: providers give a customer a network of
/// 56 bits, or of 48.
pub(super) fn one_client(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 80 << 80).into()),
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Region {
    name: String,
    at: Option<(f64, f64)>,
    /// The customer's own list, which goes first.
    own: Vec<Country>,
    countries: Vec<Country>,
}

/// The customer's and the operator's regions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Regions(Vec<Region>);

impl Regions {
    /// Of two regions with the same name it makes one.
    pub fn new(own: &[(String, Vec<Country>)], operator: &[RegionEntry]) -> Self {
        let mut all: Vec<_> = operator
            .iter()
            .map(|r| Region {
                name: r.name.as_str().to_owned(),
                at: r.at.map(|c| (f64::from(c.latitude_cdeg) / 100.0, f64::from(c.longitude_cdeg) / 100.0)),
                own: Vec::new(),
                countries: r.countries.as_slice().to_vec(),
            })
            .collect();
        for (name, countries) in own {
            match all.iter_mut().find(|r| r.name == *name) {
                Some(region) => region.own.clone_from(countries),
                None => {
                    let (name, own) = (name.clone(), countries.clone());
                    all.push(Region { name, at: None, own, countries: Vec::new() });
                }
            }
        }
        Self(all)
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There are none: no client is in any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// By its index.
    pub fn name(&self, index: usize) -> &str {
        self.0.get(index).map_or("", |r| &r.name)
    }

    /// By the customer's lists, else by the operator's, else the nearest where coordinates are known.
    pub fn of(&self, place: &Located) -> Option<usize> {
        let listed = |lists: fn(&Region) -> &[Country]| {
            let country = place.country?;
            self.0.iter().position(|r| lists(r).contains(&country))
        };
        listed(|r| &r.own).or_else(|| listed(|r| &r.countries)).or_else(|| {
            let at = place.at?;
            let far = self.0.iter().enumerate().filter_map(|(i, r)| Some((i, angle(at, r.at?))));
            far.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(i, _)| i)
        })
    }
}

/// Of the great circle from one to the other (haversine): the larger, the farther.
fn angle(a: (f64, f64), b: (f64, f64)) -> f64 {
    let (lat_a, lat_b) = (a.0.to_radians(), b.0.to_radians());
    let half = |x: f64| (x / 2.0).sin().powi(2);
    half(lat_b - lat_a) + lat_a.cos() * lat_b.cos() * half((b.1 - a.1).to_radians())
}
