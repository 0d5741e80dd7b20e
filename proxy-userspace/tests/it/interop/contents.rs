//! A header in words, as the table has it.

use anyhow::Result;
use truepeer::header::{Header, PeerBytes, SslSub, Tlv, kind};

use crate::lab::pki::Pki;

/// The TLVs in the order sent.
pub fn tlvs(header: &Header<'_>) -> String {
    let names: Vec<_> = header.tlvs.iter().map(tlv).collect();
    names.join(", ")
}

/// Fails unless they say what the test has set up.
pub fn tell_the_truth(header: &Header<'_>, pki: &Pki) -> Result<()> {
    for tlv in header.tlvs.iter() {
        match tlv {
            Tlv::Alpn(protocol) => is(protocol, "http/1.1"),
            Tlv::Authority(name) => is(name, Pki::FRONT),
            Tlv::UniqueId(id) => is(id, &unique_id(header)),
            Tlv::Ssl(ssl) => {
                assert_eq!(ssl.verify, 0);
                if let Some(name) = ssl.verified_common_name() {
                    is(name, Pki::VISITOR);
                }
            }
            Tlv::Unknown { kind: 0xe1, value } => is(value, &unique_id(header)),
            Tlv::Unknown { kind: 0xf0, value } => is(value, "lab"),
            // OpenSSL's own form of a certificate, here the same but for these words
            Tlv::Unknown { value, .. } => {
                let trusted = pki.read("visitor.crt")?;
                is(
                    value,
                    &trusted.replace(" CERTIFICATE", " TRUSTED CERTIFICATE"),
                );
            }
            _ => {}
        }
    }
    Ok(())
}

fn is(value: PeerBytes<'_>, expected: &str) {
    assert_eq!(
        value.as_bytes().escape_ascii().to_string(),
        expected.as_bytes().escape_ascii().to_string()
    );
}

fn is_certificate(value: PeerBytes<'_>) -> bool {
    value
        .as_bytes()
        .starts_with(b"-----BEGIN TRUSTED CERTIFICATE-----")
}

/// What the lab's HAProxy makes of a client.
fn unique_id(header: &Header<'_>) -> String {
    let ends = header.endpoints.expect("a client's connection");
    format!("{}-{}", ends.source.ip(), ends.source.port())
}

fn tlv(tlv: Tlv<'_>) -> String {
    match tlv {
        Tlv::Alpn(_) => "ALPN".to_owned(),
        Tlv::Authority(_) => "AUTHORITY".to_owned(),
        Tlv::Crc32c(_) => "CRC32C".to_owned(),
        Tlv::Noop(_) => "NOOP".to_owned(),
        Tlv::UniqueId(_) => "UNIQUE_ID".to_owned(),
        Tlv::Netns(_) => "NETNS".to_owned(),
        Tlv::Ssl(ssl) => {
            let subs: Vec<_> = ssl.subs.iter().map(sub).collect();
            format!("SSL ({})", subs.join(", "))
        }
        // Hitch uses GCP's number for this.
        Tlv::Unknown { kind, value } if kind == kind::GCP && is_certificate(value) => {
            format!("client certificate ({} KB)", value.as_bytes().len() / 1024)
        }
        Tlv::Unknown { kind, .. } => format!("{kind:#04x}"),
        Tlv::AwsVpcEndpoint(_) | Tlv::AzureLink(_) | Tlv::GcpPscConnection(_) => {
            format!("{tlv:?}")
        }
    }
}

fn sub(sub: SslSub<'_>) -> String {
    match sub {
        SslSub::Version(_) => "VERSION".to_owned(),
        SslSub::CommonName(_) => "CN".to_owned(),
        SslSub::Cipher(_) => "CIPHER".to_owned(),
        SslSub::SigAlg(_) => "SIG_ALG".to_owned(),
        SslSub::KeyAlg(_) => "KEY_ALG".to_owned(),
        SslSub::Group(_) => "GROUP".to_owned(),
        SslSub::SigScheme(_) => "SIG_SCHEME".to_owned(),
        SslSub::ClientCert(_) => "CLIENT_CERT".to_owned(),
        SslSub::Unknown { kind, .. } => format!("{kind:#04x}"),
    }
}
