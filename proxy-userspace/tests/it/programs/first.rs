//! What follows the answer to a SYN: the handshake's end, and the first data.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use etherparse::TcpOptionElement as Said;

use super::bench::{Bench, DROP, FAMILIES, Family, is_v4};
use super::foreign::{set_words, untouched};
use super::frame::{ack, lengthen_ip, syn};
use super::syn::{answered, goes_to_the_daemon};
use crate::lab::addr::{CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, Pair};
use crate::lab::forge::{ACK, FIN, PSH, RST, SYN_OPTIONS, Segment};
use crate::lab::header::{Version, v2, v2_raw};
use crate::lab::path::Path;

const WITHOUT_TIMESTAMPS: &[u8] = &[2, 4, 5, 0xb4, 4, 2, 1, 3, 3, 7, 0, 0];
const KINDS: [(&str, &[u8]); 2] = [
    ("by a cookie", SYN_OPTIONS),
    ("by the pending table", WITHOUT_TIMESTAMPS),
];

/// A balancer that has got an answer to its SYN.
pub struct Handshake {
    pub family: Family,
    port: u16,
    acknowledged: u32,
    /// Timestamps, if any are agreed on.
    options: Vec<u8>,
}

impl Handshake {
    pub fn start(bench: &Bench, family: Family, port: u16, asked: &[u8]) -> Result<Self> {
        let segment = Segment {
            options: asked,
            ..syn(family, port)
        };
        let read = answered(bench, &segment)?;
        let mut options = Vec::new();
        for option in read.tcp.options_iterator() {
            if let Said::Timestamp(value, _) = option? {
                options = [&[1, 1, 8, 10, 0, 0, 0, 2][..], &value.to_be_bytes()].concat();
            }
        }
        Ok(Self {
            family,
            port,
            acknowledged: read.tcp.sequence_number.wrapping_add(1),
            options,
        })
    }

    /// The first segment behind it.
    pub fn next<'a>(&'a self, flags: u8, payload: &'a [u8]) -> Segment<'a> {
        Segment {
            acknowledged: self.acknowledged,
            options: &self.options,
            flags,
            payload,
            ..ack(self.family, self.port)
        }
    }
}

type Test = fn(&Bench, &Handshake) -> Result<()>;

const TESTS: [(&str, Test); 6] = [
    ("the end of a handshake", the_handshakes_end_is_dropped),
    ("overtaking", what_overtakes_the_first_data_is_dropped),
    ("a wrong number", a_wrong_number_is_the_stacks_to_answer),
    ("undecided", what_the_kernel_cant_decide_goes_to_the_daemon),
    ("no listener", without_a_listener_nothing_is_left),
    ("no header", a_header_of_no_length_is_dropped),
];

/// On one host, with a handshake of each kind in each family.
#[test]
fn behind_an_answer() -> Result<()> {
    let bench = Bench::start(Path::Direct)?;
    for family in FAMILIES {
        for (port, (kind, options)) in (24_000..).zip(KINDS) {
            let handshake = Handshake::start(&bench, family, port, options)?;
            for (name, test) in TESTS {
                test(&bench, &handshake).with_context(|| format!("{name}, {kind}"))?;
            }
        }
    }
    Ok(())
}

fn is_dropped(bench: &Bench, segment: &Segment<'_>, why: &str) -> Result<()> {
    let frame = bench.frame(segment);
    let (ran, counted) = bench.count("direct", bench.at_the_uplink(&frame))?;
    ensure!(counted == [why], "counted {counted:?}, not {why}");
    ensure!(ran.code == DROP, "returned {}", ran.code);
    Ok(())
}

fn the_handshakes_end_is_dropped(bench: &Bench, handshake: &Handshake) -> Result<()> {
    is_dropped(bench, &handshake.next(ACK, b""), "direct_handshake")?;
    is_dropped(bench, &handshake.next(ACK | RST, b""), "direct_silent")
}

fn what_overtakes_the_first_data_is_dropped(bench: &Bench, handshake: &Handshake) -> Result<()> {
    let mut segment = handshake.next(ACK, b"words");
    segment.number += 28;
    is_dropped(bench, &segment, "direct_ahead")
}

fn a_wrong_number_is_the_stacks_to_answer(bench: &Bench, handshake: &Handshake) -> Result<()> {
    for bit in 9..32 {
        let mut segment = handshake.next(ACK, b"");
        segment.acknowledged ^= 1 << bit;
        untouched(bench, "direct", &bench.frame(&segment)).with_context(|| format!("{bit}"))?;
    }
    // The number is for one port of the balancer's, and one of the service's.
    let mut segment = handshake.next(ACK, b"");
    segment.from.set_port(24_100);
    untouched(bench, "direct", &bench.frame(&segment))
}

fn what_the_kernel_cant_decide_goes_to_the_daemon(
    bench: &Bench,
    handshake: &Handshake,
) -> Result<()> {
    let (client, front) = ends(handshake.family);
    let whole = v2(0x21, client, front, &[]);
    let line = Version::V1.header(client, front);
    for header in [&whole, &line] {
        for length in [1, 7, 20, header.len() - 1] {
            let frame = bench.frame(&handshake.next(ACK | PSH, &header[..length]));
            goes_to_the_daemon(bench, &frame, "to_daemon_split")
                .with_context(|| format!("{length} bytes of {header:?}"))?;
        }
    }
    for (name, header, why) in whole_headers(handshake.family) {
        let frame = bench.frame(&handshake.next(ACK | PSH, &header));
        goes_to_the_daemon(bench, &frame, why).context(name)?;
    }
    let frame = bench.frame(&handshake.next(ACK | FIN, b""));
    goes_to_the_daemon(bench, &frame, "to_daemon_silent").context("FIN")?;
    let frame = lengthen_ip(bench.frame(&handshake.next(ACK | PSH, &whole)));
    goes_to_the_daemon(bench, &frame, "to_daemon_split").context("IP options")
}

/// Client and front.
fn ends(family: Family) -> (SocketAddr, SocketAddr) {
    (family(CLIENT, 25_000), family(FRONT, FRONT_PORT))
}

/// Why the daemon gets them.
fn whole_headers(family: Family) -> [(&'static str, Vec<u8>, &'static str); 15] {
    const HEADER: &str = "to_daemon_header";
    const CLIENT_ITSELF: &str = "to_daemon_client";
    const WRONG_CRC: [u8; 7] = [3, 0, 4, 0, 0, 0, 0];
    let (client, front) = ends(family);
    let other = if is_v4(family) { Pair::v6 } else { Pair::v4 };
    let (other, others_front) = ends(other);
    let of = |client| v2(0x21, client, front, &[]);
    let with = |tlvs: &[u8]| v2(0x21, client, front, tlvs);
    let past_the_end = [0x20, 0, 9, 1, 0, 0, 0, 0, 0x21, 0, 0];
    let past_the_ssl = [0x20, 0, 9, 1, 0, 0, 0, 0, 0x21, 0, 2, b'1', 4, 0, 0];
    let half_a_part = [0x20, 0, 7, 1, 0, 0, 0, 0, 0x21, 0, 4, 0, 0];
    let long_id = [&[5, 0, 129][..], &[b'x'; 129]].concat();
    [
        ("none", b"GET / HTTP/1.1\r\n\r\n".to_vec(), HEADER),
        ("UNKNOWN", b"PROXY UNKNOWN\r\n".to_vec(), HEADER),
        ("LOCAL", v2_raw(0x20, 0, &[]), HEADER),
        ("UDP", v2_raw(0x21, 0x12, &[0; 12]), HEADER),
        ("version 3", v2_raw(0x31, 0x11, &[0; 12]), HEADER),
        ("CRC32C", with(&WRONG_CRC), HEADER),
        ("a long id", with(&long_id), HEADER),
        ("a short SSL", with(&[0x20, 0, 4, 1, 0, 0, 0]), HEADER),
        ("an SSL past the end", with(&past_the_end), HEADER),
        ("a part past its SSL", with(&past_the_ssl), HEADER),
        ("half a part", with(&half_a_part), HEADER),
        (
            "the other family",
            v2(0x21, other, others_front, &[]),
            "to_daemon_family",
        ),
        ("a martian", of(family(LOOPBACK, 1)), CLIENT_ITSELF),
        ("this host", of(family(HOST, 1)), CLIENT_ITSELF),
        ("port 0", of(family(CLIENT, 0)), CLIENT_ITSELF),
    ]
}

/// A listener takes no packet of a test run: whatever was written for the connection is taken back,
/// and the segment is as it was.
fn without_a_listener_nothing_is_left(bench: &Bench, handshake: &Handshake) -> Result<()> {
    let (client, front) = ends(handshake.family);
    let before = bench.flows()?;
    for version in Version::BOTH {
        let header = version.header(client, front);
        let payload = [&header[..], b"words"].concat();
        let frame = bench.frame(&handshake.next(ACK | PSH, &payload));
        goes_to_the_daemon(bench, &frame, "to_daemon_listener")?;
    }
    ensure!(bench.flows()? == before, "a flow is left");
    Ok(())
}

fn a_header_of_no_length_is_dropped(bench: &Bench, handshake: &Handshake) -> Result<()> {
    for words in [0, 4] {
        let mut frame = bench.frame(&handshake.next(ACK, b""));
        set_words(&mut frame, handshake.family, words);
        let (ran, counted) = bench.count("direct", bench.at_the_uplink(&frame))?;
        ensure!(
            ran.code == DROP && counted == ["direct_failed"],
            "{counted:?}"
        );
    }
    Ok(())
}
