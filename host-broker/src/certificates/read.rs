//! From PEM to what is judged.

use super::Name;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RsaKeyPair,
};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::net::IpAddr;
use x509_parser::der_parser::ber::BerObjectContent;
use x509_parser::der_parser::der::parse_der;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Why nothing could be read from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unread {
    /// No section of the kind that was looked for.
    NotPem,
    /// A section that is no whole certificate or key.
    Damaged(String),
    /// A key that needs a password.
    Encrypted,
}

/// What is judged of a certificate.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    pub der: Vec<u8>,
    pub subject: String,
    pub issuer: String,
    pub names: Vec<Name>,
    pub not_before_unix_s: i64,
    pub not_after_unix_s: i64,
    pub is_authority: bool,
    /// Key usage, where it is critical.
    pub usage: Option<Usage>,
    /// Extended key usage, where there is one.
    pub purpose: Option<Purpose>,
    /// The public key's bits.
    pub public_key: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    pub signs_certificates: bool,
    pub signs: bool,
    pub enciphers_keys: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Purpose {
    pub critical: bool,
    pub server: bool,
    pub client: bool,
}

impl Certificate {
    fn parse(der: Vec<u8>) -> Result<Self, String> {
        let (rest, x) = X509Certificate::from_der(&der).map_err(|e| format!("no X.509 certificate: {e}"))?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow the certificate", rest.len()));
        }
        let bad =
            |e: x509_parser::error::X509Error| format!("an extension of the certificate is broken: {e}");
        let names = x
            .subject_alternative_name()
            .map_err(bad)?
            .map_or_else(Vec::new, |all| all.value.general_names.iter().filter_map(name).collect());
        let usage = x.key_usage().map_err(bad)?.filter(|u| u.critical).map(|u| Usage {
            signs_certificates: u.value.key_cert_sign(),
            signs: u.value.digital_signature(),
            enciphers_keys: u.value.key_encipherment(),
        });
        let purpose = x.extended_key_usage().map_err(bad)?.map(|p| Purpose {
            critical: p.critical,
            server: p.value.any || p.value.server_auth,
            client: p.value.any || p.value.client_auth,
        });
        Ok(Self {
            subject: x.subject().to_string(),
            issuer: x.issuer().to_string(),
            names,
            not_before_unix_s: x.validity().not_before.timestamp(),
            not_after_unix_s: x.validity().not_after.timestamp(),
            is_authority: x.basic_constraints().map_err(bad)?.is_some_and(|b| b.value.ca),
            usage,
            purpose,
            public_key: x.public_key().subject_public_key.data.to_vec(),
            der,
        })
    }

    /// The other one's key made the signature on this one.
    pub fn is_signed_by(&self, authority: &Certificate) -> bool {
        let parse = |der| X509Certificate::from_der(der).ok().map(|(_, x)| x);
        let (Some(this), Some(that)) = (parse(self.der.as_slice()), parse(authority.der.as_slice())) else {
            return false;
        };
        this.issuer() == that.subject() && this.verify_signature(Some(that.public_key())).is_ok()
    }
}

/// The same bytes.
impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

fn name(general: &GeneralName<'_>) -> Option<Name> {
    if let GeneralName::DNSName(name) = general {
        return Some(Name::Dns(name.to_ascii_lowercase()));
    }
    let GeneralName::IPAddress(bytes) = general else { return None };
    let ip = <[u8; 4]>::try_from(*bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
    ip.ok().map(Name::Ip)
}

/// All certificates of a PEM file, at least one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<Certificate>, Unread> {
    let mut found = Vec::new();
    for section in CertificateDer::pem_slice_iter(pem) {
        let der = section.map_err(|e| Unread::Damaged(why(&e)))?;
        found.push(Certificate::parse(der.to_vec()).map_err(Unread::Damaged)?);
    }
    if found.is_empty() { Err(Unread::NotPem) } else { Ok(found) }
}

fn why(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "its last line is missing; was it cut off?".into(),
        pem::Error::Base64Decode(_) => "between its first and last line is no base64".into(),
        pem::Error::IllegalSectionStart { .. }
        | pem::Error::Io(_)
        | pem::Error::NoItemsFound
        | pem::Error::SectionTooLarge
        | _ => error.to_string(),
    }
}

/// The public half of a private key, as bits in a certificate. None: of a kind that is not known here.
pub(super) fn public_half(pem: &[u8]) -> Result<Option<Vec<u8>>, Unread> {
    let key = match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => key,
        Err(pem::Error::NoItemsFound) if contains(pem, b"BEGIN ENCRYPTED PRIVATE KEY") => {
            return Err(Unread::Encrypted);
        }
        Err(pem::Error::NoItemsFound) => return Err(Unread::NotPem),
        Err(e) => return Err(Unread::Damaged(why(&e))),
    };
    let der = key.secret_der();
    if contains(pem, b"Proc-Type: 4,ENCRYPTED") {
        return Err(Unread::Encrypted);
    }
    if !parse_der(der).is_ok_and(|(_, key)| key.as_sequence().is_ok()) {
        return Err(Unread::Damaged("what it holds is no private key".into()));
    }
    Ok(match &key {
        PrivateKeyDer::Pkcs1(_) => RsaKeyPair::from_der(der).ok().map(|k| k.public_key().as_ref().to_vec()),
        PrivateKeyDer::Sec1(_) => of_sec1(der),
        PrivateKeyDer::Pkcs8(_) => of_pkcs8(der),
        // The type may grow.
        _ => None,
    })
}

fn of_pkcs8(der: &[u8]) -> Option<Vec<u8>> {
    let random = SystemRandom::new();
    let ec = |alg| EcdsaKeyPair::from_pkcs8(alg, der, &random).ok().map(|k| k.public_key().as_ref().to_vec());
    ec(&ECDSA_P256_SHA256_ASN1_SIGNING)
        .or_else(|| ec(&ECDSA_P384_SHA384_ASN1_SIGNING))
        .or_else(|| {
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok().map(|k| k.public_key().as_ref().to_vec())
        })
        .or_else(|| RsaKeyPair::from_pkcs8(der).ok().map(|k| k.public_key().as_ref().to_vec()))
}

/// `ECPrivateKey` of RFC 5915: its fourth field, tagged 1, is the public key, where it was written along.
fn of_sec1(der: &[u8]) -> Option<Vec<u8>> {
    let (_, key) = parse_der(der).ok()?;
    let tagged = key
        .as_sequence()
        .ok()?
        .iter()
        .find(|field| field.header.is_contextspecific() && field.header.tag().0 == 1)?;
    let BerObjectContent::Unknown(any) = &tagged.content else { return None };
    let (_, bits) = parse_der(any.data).ok()?;
    Some(bits.as_bitstring().ok()?.data.to_vec())
}

fn contains(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|w| w == part)
}
