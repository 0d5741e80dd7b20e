//! Headers as they come.

#![expect(clippy::cast_possible_truncation, reason = "words of an address")]

use super::v2::Transport::{Datagram, Stream};
use super::*;
use crate::{Addr, Endpoint};

fn line(text: &str) -> Option<Endpoint> {
    let bytes = text.as_bytes();
    if bytes.get(..9)? != v1::PREFIX || *bytes.get(10)? != b' ' {
        return None;
    }
    let mut line = v1::Line::new(bytes[9])?;
    for (at, byte) in bytes.iter().enumerate().skip(v1::START) {
        match line.step(*byte) {
            v1::Step::More => {}
            v1::Step::Whole => {
                return (bytes.get(at + 1) == Some(&b'\n')).then_some(line.source());
            }
            v1::Step::Other => return None,
        }
    }
    None
}

fn v6(text: &str) -> Addr {
    let address: core::net::Ipv6Addr = text.parse().expect("an address");
    let words = address.to_bits();
    let word = |shift: u32| ((words >> shift) as u32).to_be();
    Addr::from_v6([word(96), word(64), word(32), word(0)])
}

#[test]
fn lines_name_their_source() {
    for (text, expected) in [
        (
            "PROXY TCP4 203.0.113.9 1.2.3.4 41000 0\r\n",
            Endpoint::new(v6("::ffff:203.0.113.9"), 41000),
        ),
        (
            "PROXY TCP4 255.255.255.255 0.0.0.0 65535 1\r\nmore",
            Endpoint::new(v6("::ffff:255.255.255.255"), 65535),
        ),
        ("PROXY TCP6 ::1 :: 1 2\r\n", Endpoint::new(v6("::1"), 1)),
        ("PROXY TCP6 :: ::1 0 2\r\n", Endpoint::new(v6("::"), 0)),
        (
            "PROXY TCP6 2001:DB8:c::9 2001:db8::1 41001 443\r\n",
            Endpoint::new(v6("2001:db8:c::9"), 41001),
        ),
        (
            "PROXY TCP6 1:2:3:4:5:6:7:8 1:: 1 2\r\n",
            Endpoint::new(v6("1:2:3:4:5:6:7:8"), 1),
        ),
        (
            "PROXY TCP6 1:2:3:4:5:6:7:: ::2:3:4:5:6:7:8 1 2\r\n",
            Endpoint::new(v6("1:2:3:4:5:6:7::"), 1),
        ),
    ] {
        assert_eq!(line(text), Some(expected), "{text}");
    }
}

#[test]
fn what_is_odd_is_left_to_the_daemon() {
    for text in [
        "PROXY UNKNOWN\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
        "PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4.5 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
        "PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        "PROXY TCP4 ::1 1.2.3.4 1 2\r\n",
        "PROXY TCP6 1.2.3.4 ::1 1 2\r\n",
        "PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n",
        "PROXY TCP6 : ::1 1 2\r\n",
        "PROXY TCP6 ::: ::1 1 2\r\n",
        "PROXY TCP6 1::2::3 ::1 1 2\r\n",
        "PROXY TCP6 :1:2:3:4:5:6:7 ::1 1 2\r\n",
        "PROXY TCP6 :1:2:3:4:5:6:7:8 ::1 1 2\r\n",
        "PROXY TCP6 1:2:3:4:5:6:7: ::1 1 2\r\n",
        "PROXY TCP6 1:2:3:4:5:6:7 ::1 1 2\r\n",
        "PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 1 2\r\n",
        "PROXY TCP6 1:2:3:4:5:6:7:8:: ::1 1 2\r\n",
        "PROXY TCP6 12345:: ::1 1 2\r\n",
        "PROXY TCP6 ::1%eth0 ::1 1 2\r\n",
    ] {
        assert_eq!(line(text), None, "{text}");
    }
}

#[test]
fn crc32c_is_castagnoli() {
    let crc = b"123456789".iter().fold(crc32c::START, |crc, byte| {
        let entry = crc32c::TABLE[usize::from(crc32c::index(crc, *byte))];
        crc32c::step(crc, entry)
    });
    assert_eq!(!crc, 0xe306_9283);
}

#[test]
fn fixed_parts_say_how_long_they_are() {
    let bytes = |command, family, len: u16| {
        let mut bytes = [0; v2::FIXED_LEN];
        bytes[..12].copy_from_slice(&v2::SIGNATURE);
        bytes[12..14].copy_from_slice(&[command, family]);
        bytes[14..].copy_from_slice(&len.to_be_bytes());
        bytes
    };
    let v4 = v2::fixed(&bytes(0x21, 0x11, 12), Stream).expect("TCP over IPv4");
    assert_eq!((v4.v6, v4.len, v4.tlvs), (false, 28, 28));
    let v6 = v2::fixed(&bytes(0x21, 0x21, 40), Stream).expect("TCP over IPv6");
    assert_eq!((v6.v6, v6.len, v6.tlvs), (true, 56, 52));
    for (command, family, len) in [
        (0x20, 0x11, 12),
        (0x11, 0x11, 12),
        (0x22, 0x11, 12),
        (0x21, 0x12, 12),
        (0x21, 0x31, 216),
        (0x21, 0, 0),
        (0x21, 0x11, 11),
        (0x21, 0x21, 35),
    ] {
        assert_eq!(v2::fixed(&bytes(command, family, len), Stream), None);
    }
    let udp = v2::fixed(&bytes(0x21, 0x22, 36), Datagram).expect("UDP over IPv6");
    assert_eq!((udp.v6, udp.len), (true, 52));
    for family in [0x11, 0x21, 0x32, 0x02, 0x10] {
        assert_eq!(v2::fixed(&bytes(0x21, family, 216), Datagram), None);
    }
}
