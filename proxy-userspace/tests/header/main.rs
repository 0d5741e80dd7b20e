//! The header parser and writer against docs/PROXY-PROTOCOL.md. A test names the rules it checks
//! as an id in square brackets; `rules.rs` sees to it that none is left out.

mod general;
mod kept;
mod properties;
mod rules;
mod security;
mod sender;
mod spp;
mod tlv;
mod udp;
mod v1;
mod v2;

use truepeer::header::{Endpoints, Header, Parse, Policy, Versions, parse, parse_datagram};

/// `a` and `b` as the two ends of a client's connection.
fn ends(a: &str, b: &str) -> Endpoints {
    Endpoints {
        source: a.parse().expect("a socket address"),
        destination: b.parse().expect("a socket address"),
    }
}

fn only(versions: Versions) -> Policy {
    Policy {
        versions,
        ..Policy::default()
    }
}

/// The header at the start of `buf`, and its length.
fn complete(buf: &[u8]) -> (Header<'_>, usize) {
    match parse(buf, &Policy::default()) {
        Ok(Parse::Complete { header, len }) => (header, len),
        other => panic!("{}: {other:?}", buf.escape_ascii()),
    }
}

/// The name of the reason why `buf` is refused.
fn refused(buf: &[u8]) -> &'static str {
    match parse(buf, &Policy::default()) {
        Err(refusal) => refusal.name(),
        other => panic!("{}: {other:?}", buf.escape_ascii()),
    }
}

fn is_partial(buf: &[u8]) -> bool {
    parse(buf, &Policy::default()) == Ok(Parse::Partial)
}

fn datagram(buf: &[u8]) -> Result<(Header<'_>, usize), &'static str> {
    parse_datagram(buf, &Policy::default()).map_err(|refusal| refusal.name())
}

/// Every proper prefix of a valid header asks for more.
fn assert_waits_for_all_of(header: &[u8]) {
    for len in 0..header.len() {
        let prefix = &header[..len];
        assert!(is_partial(prefix), "{}", prefix.escape_ascii());
    }
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A v2 header with any command and family byte and a true length.
fn raw_v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).expect("a 16-bit length");
    let mut header = SIGNATURE.to_vec();
    header.extend([command, family]);
    header.extend(len.to_be_bytes());
    header.extend(body);
    header
}

/// 192.0.2.1:40000 to 198.51.100.2:443.
const INET: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 2, 0x9c, 0x40, 1, 187];

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).expect("a 16-bit length");
    let mut tlv = vec![kind];
    tlv.extend(len.to_be_bytes());
    tlv.extend(value);
    tlv
}

/// PROXY, TCP over IPv4, and `tlvs`.
fn with_tlvs(tlvs: &[u8]) -> Vec<u8> {
    raw_v2(0x21, 0x11, &[INET, tlvs].concat())
}
