//! Every way in which certificates go wrong, and whether it is found.

use super::make::{Made, authority, leaf};
use super::*;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// 2026-11-22.
const NOW: i64 = 1_795_305_600;
const DAY: i64 = 86_400;
const QEMU: u32 = 64_055;

fn ca(subject: &str) -> Made {
    authority(subject, [7; 16], NOW).unwrap()
}

fn host(by: &Made, name: &str) -> Made {
    leaf(by, name, &[Name::Dns(name.into()), Name::Ip("10.0.0.1".parse().unwrap())], None, [9; 16], NOW)
        .unwrap()
}

fn file(path: &str, bytes: impl Into<Vec<u8>>, uid: u32, mode: u32) -> File {
    let dir = Meta { uid: 0, gid: 0, mode: 0o755 };
    File {
        path: path.into(),
        content: Content::Bytes(bytes.into()),
        meta: Some(Meta { uid, gid: 0, mode }),
        above: vec![dir],
    }
}

fn pair(of: &Made, name: &str) -> Pair {
    Pair {
        cert: file(&format!("/p/{name}-cert.pem"), of.cert_pem.clone(), 0, 0o644),
        key: file(&format!("/p/{name}-key.pem"), of.key_pem.clone(), QEMU, 0o400),
    }
}

fn set(trusted: &[&Made], of: &Made) -> Set {
    let all: String = trusted.iter().map(|ca| ca.cert_pem.as_str()).collect();
    Set {
        owner: Owner::Qemu,
        ca: file("/p/ca-cert.pem", all, 0, 0o644),
        server: pair(of, "server"),
        client: pair(of, "client"),
        dh_params: Some(file("/p/dh-params.pem", DH_PARAMS, 0, 0o644)),
    }
}

fn expected() -> Expected {
    Expected {
        names: vec![Name::Dns("h1".into()), Name::Ip("10.0.0.1".parse().unwrap())],
        must: None,
        migration: Vec::new(),
        usual: None,
        qemu: Some(User { name: "libvirt-qemu".into(), uid: QEMU, gids: vec![106] }),
    }
}

fn well() -> (Made, Set) {
    let ca = ca("one");
    let of = host(&ca, "h1");
    let all = set(&[&ca], &of);
    (ca, all)
}

fn worst(set: &Set, at: i64) -> Vec<(Severity, Kind)> {
    kinds(&inspect(set, &expected(), at))
}

fn worst_for(set: &Set, expected: &Expected) -> Vec<(Severity, Kind)> {
    kinds(&inspect(set, expected, NOW))
}

fn kinds(all: &[Finding]) -> Vec<(Severity, Kind)> {
    all.iter().filter(|f| f.severity > Severity::Ok).map(|f| (f.severity, f.kind)).collect()
}

fn found(set: &Set, severity: Severity, kind: Kind) -> bool {
    worst(set, NOW).contains(&(severity, kind))
}

#[test]
fn what_is_made_here_is_found_well() {
    let (_, all) = well();
    let found = inspect(&all, &expected(), NOW);
    assert_eq!((found.len(), found[0].kind), (1, Kind::Well), "{found:?}");
    assert!(found[0].detail.contains("2027-11-22"), "{found:?}");
}

#[test]
fn each_date_is_found_in_time() {
    let (_, all) = well();
    for (at, expected) in [
        (NOW - 2 * DAY, Some((Severity::Fail, Kind::NotYetValid))),
        (NOW, None),
        (NOW + 334 * DAY, None),
        (NOW + 336 * DAY, Some((Severity::Warn, Kind::ExpiresSoon))),
        (NOW + 359 * DAY, Some((Severity::Fail, Kind::ExpiresSoon))),
        (NOW + 366 * DAY, Some((Severity::Fail, Kind::Expired))),
    ] {
        let found = worst(&all, at);
        assert_eq!(found.first().copied(), expected, "day {}: {found:?}", (at - NOW) / DAY);
    }
}

#[test]
fn an_authority_that_has_expired_spoils_the_file_beside_a_good_one() {
    let old = authority("old", [1; 16], NOW - 3653 * DAY).unwrap();
    let (new, _) = well();
    let of = host(&new, "h1");
    assert_eq!(worst(&set(&[&old, &new], &of), NOW), [(Severity::Fail, Kind::Expired)]);
}

#[test]
fn another_authority_is_found_also_when_it_has_the_same_name() {
    let (one, other) = (ca("one"), ca("one"));
    let of = host(&one, "h1");
    let twice = (Severity::Fail, Kind::OtherAuthority);
    assert_eq!(worst(&set(&[&other], &of), NOW), [twice, twice]);
    assert_eq!(worst(&set(&[&other, &one], &of), NOW), []);
}

#[test]
fn a_key_of_another_certificate_is_found() {
    let (ca, mut all) = well();
    all.client.key = pair(&host(&ca, "h1"), "client").key;
    assert_eq!(worst(&all, NOW), [(Severity::Fail, Kind::KeyMismatch)]);
}

#[test]
fn names_of_another_host_and_a_missing_migration_host_are_found() {
    let (ca, _) = well();
    let other = leaf(&ca, "h2", &[Name::Dns("h2".into())], None, [1; 16], NOW).unwrap();
    assert_eq!(worst(&set(&[&ca], &other), NOW), [(Severity::Fail, Kind::WrongName)]);
    let full = leaf(&ca, "h1", &[Name::Dns("h1.example".into())], None, [1; 16], NOW).unwrap();
    assert_eq!(worst(&set(&[&ca], &full), NOW), [], "the short name is the same host");
    let (_, all) = well();
    let must = Expected { must: Some(Name::Ip("10.0.0.9".parse().unwrap())), ..expected() };
    assert_eq!(inspect(&all, &must, NOW)[0].kind, Kind::NameMissing);
    let short = Expected { usual: Some(Name::Dns("h1".into())), ..expected() };
    let found = inspect(&set(&[&ca], &full), &short, NOW);
    assert_eq!((found[0].severity, found[0].kind), (Severity::Warn, Kind::NameMissing), "GnuTLS: {found:?}");
    let short = Expected { must: Some(Name::Dns("h1".into())), ..expected() };
    assert_eq!(worst_for(&set(&[&ca], &full), &short), [(Severity::Fail, Kind::NameMissing)]);
    let ips = ["10.0.0.1", "10.9.0.1"].map(|ip| ip.parse().unwrap());
    let network = Expected { migration: ips[..1].to_vec(), ..expected() };
    assert_eq!(worst_for(&all, &network), []);
    let network = Expected { migration: ips.to_vec(), ..expected() };
    assert_eq!(worst_for(&all, &network), [(Severity::Fail, Kind::NameMissing)], "one of two does not do");
    assert_eq!(worst_for(&all, &network.of_libvirt()), []);
    let by_address = leaf(&ca, "h1", &[Name::Ip("10.0.0.1".parse().unwrap())], None, [1; 16], NOW).unwrap();
    let usual = Expected { usual: Some(Name::Dns("h1".into())), ..expected() };
    let found = inspect(&set(&[&ca], &by_address), &usual, NOW);
    assert_eq!((found[0].severity, found[0].kind), (Severity::Warn, Kind::NameMissing), "{found:?}");
    assert_eq!(inspect(&all, &usual, NOW)[0].kind, Kind::Well);
}

/// A certificate as others make them.
fn foreign(ca: &Made, edit: impl FnOnce(&mut CertificateParams)) -> Made {
    let signing = KeyPair::from_pem(&ca.key_pem).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&ca.cert_pem, signing).unwrap();
    let mut params = CertificateParams::new(["h1".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2028, 1, 1));
    edit(&mut params);
    let key = KeyPair::generate().unwrap();
    Made { cert_pem: params.signed_by(&key, &issuer).unwrap().pem(), key_pem: key.serialize_pem() }
}

#[test]
fn usages_that_qemu_refuses_or_lets_pass_are_told_apart() {
    let ca = ca("one");
    let server = foreign(&ca, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert_eq!(worst(&set(&[&ca], &server), NOW), [(Severity::Warn, Kind::NotForClient)]);
    let client = foreign(&ca, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    assert_eq!(worst(&set(&[&ca], &client), NOW), [(Severity::Warn, Kind::NotForServer)]);
    let any = foreign(&ca, |_| {});
    assert_eq!(worst(&set(&[&ca], &any), NOW), [], "no usage at all allows all");
    let usual = foreign(&ca, |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    let mut all = set(&[&ca], &usual);
    assert_eq!(worst(&all, NOW), [(Severity::Warn, Kind::KeyUsage); 2], "QEMU by its version");
    all.owner = Owner::Libvirt;
    assert_eq!(worst(&all, NOW), [(Severity::Fail, Kind::KeyUsage); 2], "libvirt refuses it");
    let no_signing = foreign(&ca, |p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]);
    assert_eq!(worst(&set(&[&ca], &no_signing), NOW), [(Severity::Fail, Kind::KeyUsage); 2]);
    let an_authority = foreign(&ca, |p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    assert!(found(&set(&[&ca], &an_authority), Severity::Fail, Kind::AuthorityForLeaf));
    assert!(found(&set(&[&any, &ca], &any), Severity::Fail, Kind::NotAnAuthority));
    let many = vec![&ca; 17];
    assert_eq!(worst(&set(&many, &any), NOW), [(Severity::Warn, Kind::TooManyAuthorities)]);
}

#[test]
fn files_that_are_no_certificates_are_found_whatever_they_are() {
    let (_, all) = well();
    let pem = all.server.cert.bytes().unwrap().to_vec();
    let text = String::from_utf8(pem.clone()).unwrap();
    let der = rustls_pki_types::pem::PemObject::from_pem_slice(&pem)
        .map(|c: rustls_pki_types::CertificateDer| c.to_vec());
    for (bytes, kind) in [
        (Vec::new(), Kind::NotPem),
        (b"hello".to_vec(), Kind::NotPem),
        (vec![0xff; 300], Kind::NotPem),
        (der.unwrap(), Kind::NotPem),
        (text.lines().take(5).collect::<Vec<_>>().join("\n").into_bytes(), Kind::Damaged),
        (text.replace("MII", "!!!").into_bytes(), Kind::Damaged),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec(), Kind::Damaged),
        (
            text.lines()
                .enumerate()
                .filter(|(i, _)| *i != 3)
                .map(|(_, l)| format!("{l}\n"))
                .collect::<String>()
                .into(),
            Kind::Damaged,
        ),
    ] {
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        for place in 0..3 {
            let mut all = all.clone();
            let file =
                [&mut all.ca, &mut all.server.cert, &mut all.client.cert].into_iter().nth(place).unwrap();
            file.content = Content::Bytes(bytes.clone());
            assert!(found(&all, Severity::Fail, kind), "{place}: {shown}: {:?}", worst(&all, NOW));
        }
    }
    let key = String::from_utf8(all.server.key.bytes().unwrap().to_vec()).unwrap();
    for (text, severity, kind) in [
        ("hello".to_owned(), Severity::Fail, Kind::NotPem),
        (key.lines().take(2).collect(), Severity::Fail, Kind::Damaged),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned(),
            Severity::Fail,
            Kind::Damaged,
        ),
        (key.replace("PRIVATE", "ENCRYPTED PRIVATE"), Severity::Warn, Kind::KeyNotJudged),
    ] {
        let mut all = all.clone();
        all.server.key.content = Content::Bytes(text.clone().into_bytes());
        assert!(found(&all, severity, kind), "{text}: {:?}", worst(&all, NOW));
    }
}

#[test]
fn missing_files_are_found_by_what_they_are_for() {
    let (_, all) = well();
    for place in 0..5 {
        let mut all = all.clone();
        let files = [
            &mut all.ca,
            &mut all.server.cert,
            &mut all.server.key,
            &mut all.client.cert,
            &mut all.client.key,
        ];
        files.into_iter().nth(place).unwrap().content = Content::Missing;
        assert!(found(&all, Severity::Fail, Kind::Missing), "{place}");
        all.owner = Owner::Libvirt;
        let severity = if place == 1 || place == 2 { Severity::Warn } else { Severity::Fail };
        assert!(found(&all, severity, Kind::Missing), "{place}");
    }
    let mut none = all.clone();
    for file in [
        &mut none.ca,
        &mut none.server.cert,
        &mut none.server.key,
        &mut none.client.cert,
        &mut none.client.key,
    ] {
        file.content = Content::Missing;
    }
    none.dh_params = None;
    assert_eq!(worst(&none, NOW), [(Severity::Fail, Kind::NothingInstalled)]);
    none.owner = Owner::Libvirt;
    assert_eq!(worst(&none, NOW), [(Severity::Hint, Kind::NothingInstalled)]);
    let mut all = all;
    all.dh_params = Some(File { content: Content::Missing, ..file("/p/dh-params.pem", "", 0, 0o644) });
    assert_eq!(worst(&all, NOW), [(Severity::Hint, Kind::DhParams)]);
    all.dh_params = Some(file("/p/dh-params.pem", DH_PARAMS.split_at(200).0, 0, 0o644));
    assert_eq!(worst(&all, NOW), [(Severity::Fail, Kind::DhParams)]);
}

#[test]
fn who_may_read_is_judged_by_owner_group_mode_and_directories() {
    let (_, all) = well();
    for (uid, gid, mode, dir, expected) in [
        (QEMU, 0, 0o400, 0o755, None),
        (QEMU, 0, 0o600, 0o711, None),
        (0, 106, 0o640, 0o755, None),
        (0, 0, 0o600, 0o755, Some(Kind::UnreadableByQemu)),
        (0, 0, 0o640, 0o755, Some(Kind::UnreadableByQemu)),
        (QEMU, 0, 0o400, 0o700, Some(Kind::UnreadableByQemu)),
        (QEMU, 106, 0o440, 0o750, Some(Kind::UnreadableByQemu)),
        (QEMU, 0, 0o404, 0o755, Some(Kind::ReadableByOthers)),
        (QEMU, 7, 0o440, 0o755, Some(Kind::ReadableByOthers)),
    ] {
        let mut all = all.clone();
        for key in [&mut all.server.key, &mut all.client.key] {
            key.meta = Some(Meta { uid, gid, mode });
            key.above = vec![Meta { uid: 0, gid: 0, mode: dir }];
        }
        let kinds: Vec<Kind> = worst(&all, NOW).iter().map(|(_, kind)| *kind).collect();
        assert_eq!(kinds.first().copied(), expected, "{uid} {gid} {mode:o} {dir:o}: {kinds:?}");
    }
    let root = Expected { qemu: Some(User { name: "root".into(), uid: 0, gids: vec![0] }), ..expected() };
    let mut all = all;
    all.server.key.meta = Some(Meta { uid: 7, gid: 7, mode: 0o600 });
    assert_eq!(inspect(&all, &root, NOW)[0].kind, Kind::Well, "root reads all");
}

#[test]
fn a_replacement_must_leave_an_authority_in_common() {
    let (one, two) = (ca("one"), ca("two"));
    let (old, new) = (host(&one, "h1"), host(&two, "h1"));
    let states = [set(&[&one], &old), set(&[&one, &two], &old), set(&[&one, &two], &new), set(&[&two], &new)];
    for (i, from) in states.iter().enumerate() {
        for (k, to) in states.iter().enumerate() {
            let allowed = inspect_replacement(from, to).is_empty();
            // The last step back is one that every other host stands.
            assert_eq!(allowed, k == i || k == i + 1 || (i, k) == (3, 2), "{i} -> {k}");
        }
    }
    let mut broken = states[0].clone();
    broken.ca.content = Content::Missing;
    assert_eq!(inspect_replacement(&broken, &states[3]), [], "nothing is broken that works");
}

#[test]
fn renewal_keeps_the_key_and_never_a_serial_number() {
    let ca = ca("one");
    let names = [Name::Dns("h1".into())];
    let first = leaf(&ca, "h1", &names, None, [1; 16], NOW).unwrap();
    let next = leaf(&ca, "h1", &names, Some(&first.key_pem), [2; 16], NOW + DAY).unwrap();
    assert!(first.key_pem == next.key_pem && first.cert_pem != next.cert_pem);
    let mut mixed = set(&[&ca], &first);
    mixed.server.cert = pair(&next, "server").cert;
    assert_eq!(worst(&mixed, NOW + DAY), [], "a reader between two renames finds a pair that fits");
    assert!(leaf(&ca, "h1", &names, Some("no key"), [1; 16], NOW).is_err());
    assert!(leaf(&ca, "h1", &names, None, [1; 16], NOW + 4000 * DAY).is_err(), "the authority has expired");
}

#[test]
fn fingerprint_and_receipt_say_what_is_installed() {
    let (one, two) = (ca("one"), ca("two"));
    let of = host(&one, "h1");
    let shown = fingerprint(of.cert_pem.as_bytes()).unwrap();
    assert!(shown.len() == 64 && shown != fingerprint(one.cert_pem.as_bytes()).unwrap());
    assert_eq!(fingerprint(b"nothing"), None);
    // Of the certificate itself, whatever stands around it.
    let der = CertificateDer::from_pem_slice(of.cert_pem.as_bytes()).unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, &der);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(fingerprint(format!("text before\n{}", of.cert_pem).as_bytes()), Some(hex));
    let both = one.cert_pem.clone() + &two.cert_pem;
    let code = |ca: &str| receipt(ca.as_bytes(), of.cert_pem.as_bytes()).unwrap();
    assert!(code(&one.cert_pem) != code(&both) && code(&both).len() == 16);
    assert_eq!(
        code(&one.cert_pem),
        code(&format!("a comment\n{}", one.cert_pem)),
        "what counts is the certificates"
    );
}

#[test]
fn names_are_addresses_or_dns_names_and_uris_have_one() {
    for (uri, name) in [
        ("qemu+tls://host2.example/system", Some("host2.example")),
        ("qemu+ssh://root@H2:22/system?x=y", Some("h2")),
        ("tcp://10.1.0.2", Some("10.1.0.2")),
        ("tcp://[fd00::2]:49152", Some("fd00::2")),
        ("qemu:///system", None),
        ("nonsense", None),
    ] {
        assert_eq!(Name::of_uri(uri).map(|n| n.to_string()).as_deref(), name, "{uri}");
    }
    for wrong in ["", "a b", "-a", "a..b", "a/b", "x\ny", &"a".repeat(64), "*.example"] {
        assert_eq!(Name::parse(wrong), None, "{wrong:?}");
    }
}
