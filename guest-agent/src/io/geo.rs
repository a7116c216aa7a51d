//! A database of places in MaxMind's format: nested as GeoIP2 has it, or flat as the free ones have it.
//!
//! It is read as a whole: a mapped file that somebody truncates would end the agent. A new file is taken up when it can
//! be used; else the old one stays, and why is told.

use crate::decide::clients::place::Located;
use coms_protocol::types::Country;
use maxminddb::{LookupResult, PathElement, Reader};
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// It stays in memory. The largest free one, all cities of both families, is 140 MiB.
const MAX_BYTES: u64 = 256 * 1024 * 1024;
/// Servers that everybody knows, on all continents. A database that places none of them is of something else.
const WELL_KNOWN: [&str; 7] = [
    "193.0.6.139",
    "8.8.8.8",
    "202.12.29.142",
    "200.3.14.10",
    "196.216.2.6",
    "2001:67c:2e8:22::c100:68b",
    "2001:4860:4860::8888",
];

type Found<'a> = LookupResult<'a, Vec<u8>>;

/// A database that can be used.
pub struct Geo(Reader<Vec<u8>>);

impl Geo {
    /// Reads and tries it.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|e| format!("cannot be read: {e}"))?;
        let meta = file.metadata().map_err(|e| format!("cannot be read: {e}"))?;
        if !meta.is_file() {
            return Err("is no file".to_owned());
        }
        if meta.len() > MAX_BYTES {
            return Err(format!("has {} bytes; at most {MAX_BYTES}", meta.len()));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
        file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(|e| format!("cannot be read: {e}"))?;
        Self::new(bytes)
    }

    /// Tries it: not every file of this format is of places.
    pub fn new(bytes: Vec<u8>) -> Result<Self, String> {
        let wrong = "is truncated, or no database in MaxMind's format (.mmdb)";
        let geo = Self(Reader::from_source(bytes).map_err(|e| format!("{wrong}: {e}"))?);
        let known =
            WELL_KNOWN.iter().filter_map(|a| a.parse().ok()).any(|a| geo.locate(a) != Located::default());
        if known {
            return Ok(geo);
        }
        Err(format!(
            "places none of {} well-known addresses: its records ({}) have neither country.iso_code nor country_code, \
             nor a location; take one of countries or cities",
            WELL_KNOWN.len(),
            Self::plain(&geo.0.metadata().database_type)
        ))
    }

    /// What it is, for people.
    pub fn what(&self) -> String {
        let meta = self.0.metadata();
        let families = if meta.ip_version == 4 { "IPv4 only" } else { "IPv4 and IPv6" };
        let day = i64::try_from(meta.build_epoch).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
        let day = day.map_or("unknown".to_owned(), |t| t.strftime("%Y-%m-%d").to_string());
        format!("{}, {families}, built {day}", Self::plain(&meta.database_type))
    }

    fn plain(text: &str) -> String {
        coms_protocol::types::Text::<64>::clipped(text).as_str().to_owned()
    }

    /// Where an address is. Nothing where the database does not know, also IPv6 in one of IPv4 only.
    pub fn locate(&self, address: IpAddr) -> Located {
        let Ok(found) = self.0.lookup(address) else { return Located::default() };
        if !found.has_data() {
            return Located::default();
        }
        Located { country: country(&found), at: coordinates(&found) }
    }
}

fn country(found: &Found) -> Option<Country> {
    use PathElement::Key;
    let paths: [&[PathElement]; 3] =
        [&[Key("country"), Key("iso_code")], &[Key("country_code")], &[Key("country")]];
    paths.into_iter().find_map(|path| Country::new(found.decode_path::<&str>(path).ok()??))
}

fn coordinates(found: &Found) -> Option<(f64, f64)> {
    use PathElement::Key;
    let number = |name| {
        let nested = || number(found, &[Key("location"), Key(name)]);
        number(found, &[Key(name)]).or_else(nested)
    };
    let (latitude, longitude) = (number("latitude")?, number("longitude")?);
    let possible = latitude.abs() <= 90.0 && longitude.abs() <= 180.0;
    possible.then_some((latitude, longitude))
}

/// A number, or the text of one.
fn number(found: &Found, path: &[PathElement]) -> Option<f64> {
    match found.decode_path::<f64>(path) {
        Ok(number) => number,
        Err(_) => found.decode_path::<&str>(path).ok()??.parse().ok(),
    }
}

/// What tells a file from the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp([i64; 2], u64, u64);

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self([meta.mtime(), meta.mtime_nsec()], meta.size(), meta.ino())
    }
}

/// The database at a path, as it changes.
pub struct GeoFile {
    path: PathBuf,
    geo: Option<Geo>,
    /// What was read last; None inside: there was no file.
    seen: Option<Option<Stamp>>,
}

impl GeoFile {
    /// Nothing read yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), geo: None, seen: None }
    }

    /// Reads it if it is another one than before. Some: what it is now, or why the old one stays.
    pub fn refresh(&mut self) -> Option<Result<String, String>> {
        let stamp = fs::metadata(&self.path).ok().map(|m| Stamp::of(&m));
        if self.seen == Some(stamp) {
            return None;
        }
        self.seen = Some(stamp);
        Some(match Geo::open(&self.path) {
            Ok(geo) => {
                let what = geo.what();
                self.geo = Some(geo);
                Ok(what)
            }
            Err(e) => {
                let stays = if self.geo.is_some() { "; the one from before stays in use" } else { "" };
                Err(format!("{e}{stays}"))
            }
        })
    }

    /// The one in use.
    pub fn get(&self) -> Option<&Geo> {
        self.geo.as_ref()
    }
}

#[cfg(test)]
mod tests;
