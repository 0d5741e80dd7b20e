//! SYNs of balancers, and their answers.

use anyhow::{Context, Result, ensure};
use etherparse::TcpOptionElement as Said;

use super::bench::{Bench, DROP, FAMILIES, Family, NEXT, REDIRECT, is_v4};
use super::foreign::set_words;
use super::frame::{lengthen_ip, syn};
use super::{answer, answer::Read};
use crate::lab::forge::{ACK, FIN, PSH, RST, SYN, SYN_OPTIONS, Segment};
use crate::lab::path::Path;

const URG: u8 = 0x20;
/// Both of ECN's.
const ECN: u8 = 0xc0;

/// What an answer offers besides its MSS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Offer {
    sack: bool,
    scale: bool,
    /// The balancer's timestamp, which comes back.
    echo: Option<u32>,
}

const NOTHING: Offer = Offer {
    sack: false,
    scale: false,
    echo: None,
};
const ALL: Offer = Offer {
    sack: true,
    scale: true,
    echo: Some(1),
};

const MSS: &[u8] = &[2, 4, 0x05, 0xb4];

/// SYNs by their options, and what is offered in return.
const ANSWERED: [(&str, &[u8], Offer); 9] = [
    ("what Linux asks for", SYN_OPTIONS, ALL),
    (
        "without timestamps",
        &[2, 4, 5, 0xb4, 4, 2, 1, 3, 3, 7, 0, 0],
        Offer { echo: None, ..ALL },
    ),
    (
        "timestamps alone",
        &[
            2, 4, 5, 0xb4, 1, 1, 8, 10, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0,
        ],
        Offer {
            echo: Some(0xdead_beef),
            ..NOTHING
        },
    ),
    (
        "SACK alone",
        &[2, 4, 5, 0xb4, 4, 2, 1, 1],
        Offer {
            sack: true,
            ..NOTHING
        },
    ),
    (
        "a scale alone",
        &[2, 4, 5, 0xb4, 3, 3, 0, 1],
        Offer {
            scale: true,
            ..NOTHING
        },
    ),
    ("an MSS alone", MSS, NOTHING),
    ("an MSS of 1220", &[2, 4, 4, 0xc4], NOTHING),
    ("no option at all", &[], NOTHING),
    (
        "an end, and what must not be read",
        &[2, 4, 5, 0xb4, 0, 99, 0, 255],
        NOTHING,
    ),
];

/// Those that the daemon's listener gets as they are.
const TO_DAEMON: [(&str, &[u8], u8, &[u8]); 14] = [
    (
        "an option that nobody knows",
        &[2, 4, 5, 0xb4, 253, 4, 0, 0],
        SYN,
        b"",
    ),
    ("TCP fast open", &[2, 4, 5, 0xb4, 34, 2, 1, 1], SYN, b""),
    (
        "MD5's signature",
        &[19, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        SYN,
        b"",
    ),
    (
        "an option without a length",
        &[2, 4, 5, 0xb4, 8, 0, 0, 0],
        SYN,
        b"",
    ),
    (
        "an option longer than the header",
        &[2, 4, 5, 0xb4, 8, 10, 0, 0],
        SYN,
        b"",
    ),
    (
        "a kind in the last byte",
        &[2, 4, 5, 0xb4, 1, 1, 1, 8],
        SYN,
        b"",
    ),
    ("an MSS of another length", &[2, 3, 5, 1], SYN, b""),
    ("an MSS of 535", &[2, 4, 2, 0x17], SYN, b""),
    ("data", SYN_OPTIONS, SYN, b"early"),
    ("FIN", SYN_OPTIONS, SYN | FIN, b""),
    ("RST", SYN_OPTIONS, SYN | RST, b""),
    ("PSH", SYN_OPTIONS, SYN | PSH, b""),
    ("URG", SYN_OPTIONS, SYN | URG, b""),
    ("everything but ACK", SYN_OPTIONS, 0xef, b""),
];

/// One of its own for each row.
fn ports() -> impl Iterator<Item = u16> {
    22_000..
}

/// Rows on one host.
#[test]
fn of_a_balancer() -> Result<()> {
    let bench = Bench::start(Path::Direct)?;
    for family in FAMILIES {
        are_answered_by_what_both_sides_can(&bench, family)?;
        of_another_kind_go_to_the_daemon(&bench, family)?;
        of_the_smallest_mss_are_answered_in_ipv4(&bench, family)?;
        that_end_before_their_header_are_dropped(&bench, family)?;
    }
    Ok(())
}

fn are_answered_by_what_both_sides_can(bench: &Bench, family: Family) -> Result<()> {
    for (port, (name, options, offer)) in ports().zip(ANSWERED) {
        let segment = Segment {
            options,
            ..syn(family, port)
        };
        is_answered(bench, family, &segment, offer).context(name)?;
    }
    let ecn = Segment {
        flags: SYN | ECN,
        ..syn(family, 23_000)
    };
    is_answered(bench, family, &ecn, ALL).context("ECN's bits")
}

fn of_another_kind_go_to_the_daemon(bench: &Bench, family: Family) -> Result<()> {
    for (port, (name, options, flags, payload)) in ports().zip(TO_DAEMON) {
        let frame = bench.frame(&Segment {
            options,
            flags,
            payload,
            ..syn(family, port)
        });
        goes_to_the_daemon(bench, &frame, "to_daemon_syn").context(name)?;
    }
    let frame = lengthen_ip(bench.frame(&syn(family, 23_002)));
    goes_to_the_daemon(bench, &frame, "to_daemon_syn").context("IP options")?;
    let mut frame = bench.frame(&syn(family, 23_003));
    set_words(&mut frame, family, 4);
    goes_to_the_daemon(bench, &frame, "to_daemon_syn").context("a short header")
}

/// IPv6 has none smaller than 1220.
fn of_the_smallest_mss_are_answered_in_ipv4(bench: &Bench, family: Family) -> Result<()> {
    const SMALLEST: &[u8] = &[2, 4, 2, 0x18];
    let segment = Segment {
        options: SMALLEST,
        ..syn(family, 23_001)
    };
    if is_v4(family) {
        is_answered(bench, family, &segment, NOTHING)
    } else {
        goes_to_the_daemon(bench, &bench.frame(&segment), "to_daemon_syn")
    }
}

/// Only TCP's header says how long it is.
fn that_end_before_their_header_are_dropped(bench: &Bench, family: Family) -> Result<()> {
    let mut frame = bench.frame(&syn(family, 23_004));
    set_words(&mut frame, family, 15);
    let (ran, counted) = bench.count("direct", bench.at_the_uplink(&frame))?;
    ensure!(
        ran.code == DROP && counted == ["direct_failed"],
        "{counted:?}"
    );
    Ok(())
}

pub fn goes_to_the_daemon(bench: &Bench, frame: &[u8], why: &str) -> Result<()> {
    let (ran, counted) = bench.count("direct", bench.at_the_uplink(frame))?;
    ensure!(counted == [why], "counted {counted:?}");
    ensure!(ran.code == NEXT, "returned {}", ran.code);
    ensure!(ran.frame == frame, "wrote into it");
    Ok(())
}

/// Returns the answer.
pub fn answered(bench: &Bench, segment: &Segment<'_>) -> Result<Read> {
    let frame = bench.frame(segment);
    let (ran, counted) = bench.count("direct", bench.at_the_uplink(&frame))?;
    ensure!(counted == ["direct_syn"], "counted {counted:?}");
    ensure!(ran.code == REDIRECT, "returned {}", ran.code);
    answer::read(&ran.frame)
}

fn is_answered(bench: &Bench, family: Family, segment: &Segment<'_>, offer: Offer) -> Result<()> {
    let read = answered(bench, segment)?;
    ensure!(read.ethernet == [bench.balancers_mac, bench.hosts_mac]);
    ensure!((read.source, read.destination) == (segment.to, segment.from));
    ensure!(read.hops == 64 && read.payload.is_empty());
    let tcp = &read.tcp;
    ensure!(flags(&read) == SYN | ACK, "flags {:#x}", flags(&read));
    ensure!(tcp.acknowledgment_number == segment.number + 1);
    ensure!(tcp.window_size == 64_240 && tcp.urgent_pointer == 0);
    let mut said = NOTHING;
    let mut mss = None;
    for option in tcp.options_iterator() {
        match option? {
            Said::MaximumSegmentSize(size) => mss = Some(size),
            Said::SelectiveAcknowledgementPermitted => said.sack = true,
            Said::WindowScale(_) => said.scale = true,
            Said::Timestamp(_, echo) => said.echo = Some(echo),
            Said::Noop => {}
            other => anyhow::bail!("{other:?}"),
        }
    }
    ensure!(said == offer, "{said:?}");
    // of a link of 1500
    let most = if is_v4(family) { 1460 } else { 1440 };
    ensure!(mss == Some(most), "an MSS of {mss:?}");
    Ok(())
}

/// As they are in the header.
pub fn flags(read: &Read) -> u8 {
    let tcp = &read.tcp;
    let bits = [
        tcp.fin, tcp.syn, tcp.rst, tcp.psh, tcp.ack, tcp.urg, tcp.ece, tcp.cwr,
    ];
    let bits = bits.iter().enumerate();
    bits.fold(0, |flags, (at, is_set)| flags | u8::from(*is_set) << at)
}
