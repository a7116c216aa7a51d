//! Makes an authority and what it signs. Times and what must be unique come in; keys are drawn by `ring`.
//!
//! ECDSA on P-256. Each host has one certificate for both directions, because it is server of migrations to it and client
//! of those from it. Key usage names key encipherment, which such a key cannot do, because libvirt and older QEMU refuse a
//! certificate whose critical key usage does not.

use super::Name;
use super::read::{certificates, public_half};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber, date_time_ymd,
};

/// How long a host's certificate is good for.
pub const LEAF_DAYS: i64 = 365;
/// How long an authority is good for.
pub const AUTHORITY_DAYS: i64 = 3652;
const DAY_S: i64 = 86_400;

/// A certificate and its key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Made {
    pub cert_pem: String,
    /// PKCS #8, without a password.
    pub key_pem: String,
}

impl Made {
    /// Key and certificate are of each other, and not expired.
    pub fn is_usable(&self, now_unix_s: i64) -> bool {
        let cert = certificates(self.cert_pem.as_bytes()).ok().and_then(|all| all.into_iter().next());
        let key = public_half(self.key_pem.as_bytes()).ok().flatten();
        cert.zip(key).is_some_and(|(cert, key)| cert.public_key == key && cert.not_after_unix_s > now_unix_s)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    #[error(
        "the authority's certificate and key cannot be used: {0}; restore them from where you keep a copy"
    )]
    Authority(String),
    #[error(
        "the authority has expired: make a new one (comsctl tls init --authority DIR), issue for every host, and install with --replace-authority"
    )]
    Expired,
    #[error("the host's key cannot be kept: {0}; make a new one: --new-key")]
    Key(String),
    #[error("`{0}` cannot stand in a certificate")]
    Name(Name),
    #[error("{0} is no time in the calendar")]
    Time(i64),
    #[error("no certificate could be made: {0}")]
    Make(rcgen::Error),
}

/// A self-signed authority. `subject` must differ between authorities: who verifies looks them up by it.
pub fn authority(subject: &str, serial: [u8; 16], now_unix_s: i64) -> Result<Made, MakeError> {
    let mut params = params(subject, serial, now_unix_s, now_unix_s + AUTHORITY_DAYS * DAY_S)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(MakeError::Make)?;
    let cert = params.self_signed(&key).map_err(MakeError::Make)?;
    Ok(Made { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
}

/// A certificate for a host, signed by the authority. `key_pem`: keep this key instead of drawing one.
pub fn leaf(
    by: &Made,
    subject: &str,
    names: &[Name],
    key_pem: Option<&str>,
    serial: [u8; 16],
    now_unix_s: i64,
) -> Result<Made, MakeError> {
    let unusable = |e: &dyn std::fmt::Display| MakeError::Authority(e.to_string());
    let authority =
        certificates(by.cert_pem.as_bytes()).map_err(|e| MakeError::Authority(format!("{e:?}")))?;
    let ends_unix_s = authority.first().map_or(now_unix_s, |a| a.not_after_unix_s);
    if ends_unix_s <= now_unix_s {
        return Err(MakeError::Expired);
    }
    let signing = KeyPair::from_pem(&by.key_pem).map_err(|e| unusable(&e))?;
    let issuer = Issuer::from_ca_cert_pem(&by.cert_pem, signing).map_err(|e| unusable(&e))?;
    let until = ends_unix_s.min(now_unix_s + LEAF_DAYS * DAY_S);
    let mut params = params(subject, serial, now_unix_s, until)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    for name in names {
        params.subject_alt_names.push(match name {
            Name::Ip(ip) => SanType::IpAddress(*ip),
            Name::Dns(dns) => {
                SanType::DnsName(dns.as_str().try_into().map_err(|_| MakeError::Name(name.clone()))?)
            }
        });
    }
    let key = match key_pem {
        Some(pem) => KeyPair::from_pem(pem).map_err(|e| MakeError::Key(e.to_string()))?,
        None => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(MakeError::Make)?,
    };
    let cert = params.signed_by(&key, &issuer).map_err(MakeError::Make)?;
    Ok(Made { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
}

fn params(
    subject: &str,
    serial: [u8; 16],
    now_unix_s: i64,
    until_unix_s: i64,
) -> Result<CertificateParams, MakeError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "COMS");
    params.distinguished_name.push(DnType::CommonName, subject);
    // The clocks of hosts may be behind.
    let (year, month, day) = date(now_unix_s - DAY_S)?;
    params.not_before = date_time_ymd(year, month, day);
    let (year, month, day) = date(until_unix_s)?;
    params.not_after = date_time_ymd(year, month, day);
    // Positive, and of full length.
    let mut serial = serial;
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// The day in UTC; certificates begin and end at midnight.
fn date(unix_s: i64) -> Result<(i32, u8, u8), MakeError> {
    let wrong = || MakeError::Time(unix_s);
    let at = jiff::Timestamp::from_second(unix_s).map_err(|_| wrong())?;
    let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
    let small = |n: i8| u8::try_from(n).map_err(|_| wrong());
    Ok((i32::from(date.year()), small(date.month())?, small(date.day())?))
}
