//! On databases made here: the smallest that have what the real ones have.

use super::*;
use made::{Value, database};

mod made;

fn nested(letters: &'static str) -> Value {
    let country = Value::Map(vec![("iso_code", Value::Text(letters))]);
    let location = Value::Map(vec![("latitude", Value::Number(52.5)), ("longitude", Value::Number(4.75))]);
    Value::Map(vec![("country", country), ("location", location)])
}

fn flat(letters: &'static str) -> Value {
    let text = |t| Value::Text(t);
    Value::Map(vec![("country_code", text(letters)), ("latitude", text("52.5")), ("longitude", text("4.75"))])
}

fn place(geo: &Geo, address: &str) -> Located {
    geo.locate(address.parse().unwrap())
}

fn dutch() -> Located {
    Located { country: Country::new("NL"), at: Some((52.5, 4.75)) }
}

#[test]
fn both_shapes_and_both_families_are_understood() {
    let only_country = Value::Map(vec![("country", Value::Text("NL"))]);
    for (value, at) in [(nested("NL"), true), (flat("NL"), true), (only_country, false)] {
        let networks = [("193.0.6.0", 24, value.clone()), ("2001:67c:2e8::", 48, value)];
        let geo = Geo::new(database(6, &networks)).unwrap();
        let wanted = if at { dutch() } else { Located { at: None, ..dutch() } };
        assert_eq!(place(&geo, "193.0.6.1"), wanted);
        assert_eq!(place(&geo, "2001:67c:2e8::1"), wanted);
        assert_eq!(place(&geo, "193.0.7.1"), Located::default());
        assert_eq!(geo.what(), "made-by-a-test, IPv4 and IPv6, built 2023-11-14");
    }
}

#[test]
fn where_a_database_knows_no_ipv6_an_ipv6_address_is_nowhere() {
    let geo = Geo::new(database(4, &[("193.0.6.0", 24, flat("NL"))])).unwrap();
    assert_eq!(place(&geo, "193.0.6.1"), dutch());
    assert_eq!(place(&geo, "2001:67c:2e8::1"), Located::default());
    assert!(geo.what().contains("IPv4 only"), "{}", geo.what());
}

fn refused(bytes: Vec<u8>) -> String {
    Geo::new(bytes).err().unwrap()
}

#[test]
fn what_is_no_database_of_places_is_refused_with_the_reason() {
    let whole = database(6, &[("193.0.6.0", 24, flat("NL"))]);
    for length in 0..whole.len() {
        let why = refused(whole[..length].to_vec());
        assert!(why.contains("truncated") || why.contains("places none"), "{length}: {why}");
    }
    assert!(refused(b"<html>not found</html>".to_vec()).contains("truncated, or no database"));
    // One of networks' owners, as GeoLite2-ASN.
    let asn = Value::Map(vec![("autonomous_system_number", Value::Long(3333))]);
    let why = refused(database(6, &[("193.0.6.0", 24, asn)]));
    assert!(why.contains("country.iso_code") && why.contains("made-by-a-test"), "{why}");
    // Broken in the middle: no panic, whatever is found.
    for at in 0..whole.len() {
        let mut broken = whole.clone();
        broken[at] ^= 0xff;
        if let Ok(geo) = Geo::new(broken) {
            let _ = (place(&geo, "193.0.6.1"), place(&geo, "::1"), geo.what());
        }
    }
}

#[test]
fn a_new_file_is_taken_up_and_a_wrong_one_leaves_the_old_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("places.mmdb");
    let mut file = GeoFile::new(&path);
    let why = file.refresh().unwrap().unwrap_err();
    assert!(why.contains("No such file") && file.get().is_none(), "{why}");
    assert_eq!(file.refresh(), None, "told once");
    let country = |file: &GeoFile| place(file.get().unwrap(), "193.0.6.1").country.unwrap().to_string();

    let first = database(6, &[("193.0.6.0", 24, flat("NL"))]);
    fs::write(&path, &first).unwrap();
    assert!(file.refresh().unwrap().is_ok());
    assert_eq!((country(&file), file.refresh()), ("NL".to_owned(), None));

    fs::write(&path, &first[..first.len() / 2]).unwrap();
    let why = file.refresh().unwrap().unwrap_err();
    assert!(why.contains("truncated") && why.contains("stays in use"), "{why}");
    assert_eq!((country(&file), file.refresh()), ("NL".to_owned(), None));

    fs::remove_file(&path).unwrap();
    assert!(file.refresh().unwrap().is_err());
    assert_eq!(country(&file), "NL");

    // As updates should come: put in place whole.
    let beside = dir.path().join("new");
    fs::write(&beside, database(6, &[("193.0.6.0", 24, nested("DE"))])).unwrap();
    fs::rename(&beside, &path).unwrap();
    assert!(file.refresh().unwrap().is_ok());
    assert_eq!(country(&file), "DE");
}
