//! What isn't truepeer's goes on as it is, and isn't counted.

use anyhow::{Context, Result, ensure};

use super::bench::{Bench, FAMILIES, Family, NEXT, is_v4};
use super::frame::{ETHERNET, ack, ip_length, lengthen_ip, syn};
use super::syn::answered;
use crate::lab::addr::{BALANCER, CLIENT, NEIGHBOUR, TRUEPEER_PORT};
use crate::lab::forge::Segment;
use crate::lab::path::Path;
use crate::lab::spray::NOBODYS;

const PORT: u16 = 21_000;

type Make = fn(&Bench, Family) -> Vec<u8>;

/// Each made of a SYN that would be answered, or of an ACK.
const FRAMES: [(&str, Make); 17] = [
    ("UDP", |bench, family| {
        let mut frame = bench.frame(&syn(family, PORT));
        let at = if is_v4(family) { 9 } else { 6 };
        frame[ETHERNET + at] = 17;
        frame
    }),
    ("neither IPv4 nor IPv6", |bench, family| {
        let mut frame = bench.frame(&syn(family, PORT));
        frame[12..14].copy_from_slice(&[0x88, 0xcc]);
        frame
    }),
    ("to another port", |bench, family| {
        bench.frame(&to_port(family, TRUEPEER_PORT + 1))
    }),
    ("to another port, with IP options", |bench, family| {
        lengthen_ip(bench.frame(&to_port(family, TRUEPEER_PORT + 1)))
    }),
    ("to another port, and no header at all", |bench, family| {
        let mut frame = bench.frame(&to_port(family, TRUEPEER_PORT + 1));
        set_words(&mut frame, family, 0);
        frame
    }),
    ("to an address that is not here", |bench, family| {
        let mut segment = syn(family, PORT);
        segment.to = family(CLIENT, TRUEPEER_PORT);
        bench.frame(&segment)
    }),
    ("for another host's MAC", |bench, family| {
        syn(family, PORT).frame([NOBODYS, bench.balancers_mac])
    }),
    ("for every host", |bench, family| {
        syn(family, PORT).frame([[0xff; 6], bench.balancers_mac])
    }),
    ("from somebody who isn't on the list", |bench, family| {
        let mut segment = syn(family, PORT);
        segment.from = family(NEIGHBOUR, PORT);
        bench.frame(&segment)
    }),
    (
        "an ACK of somebody who isn't on the list",
        |bench, family| {
            let mut segment = ack(family, PORT);
            segment.from = family(NEIGHBOUR, PORT);
            bench.frame(&segment)
        },
    ),
    ("an ACK of nothing that was said", |bench, family| {
        bench.frame(&ack(family, PORT))
    }),
    ("the same with IP options", |bench, family| {
        lengthen_ip(bench.frame(&ack(family, PORT)))
    }),
    ("no flags at all", |bench, family| {
        let mut segment = ack(family, PORT);
        segment.flags = 0;
        bench.frame(&segment)
    }),
    ("a TCP header that is cut off", |bench, family| {
        cut(bench.frame(&syn(family, PORT)), family, 12)
    }),
    ("an IP header and no more", |bench, family| {
        cut(bench.frame(&syn(family, PORT)), family, 0)
    }),
    ("a fragment of what nobody knows", |bench, family| {
        let mut frame = bench.frame(&ack(family, PORT));
        if is_v4(family) {
            frame[ETHERNET + 6] = 0x20;
        } else {
            frame[ETHERNET + 6] = 44;
            let header = [6, 0, 0, 1, 0, 0, 0, 1];
            frame.splice(ETHERNET + 40..ETHERNET + 40, header);
        }
        frame
    }),
    ("an error about what nobody knows", |bench, family| {
        let mut quoted = Vec::new();
        Segment::between(syn(family, PORT).to, family(BALANCER, PORT)).write(&mut quoted);
        let mut frame = bench.frame(&ack(family, PORT));
        let (at, protocol, kind) = if is_v4(family) { (9, 1, 3) } else { (6, 58, 1) };
        frame[ETHERNET + at] = protocol;
        frame.truncate(ETHERNET + ip_length(is_v4(family)));
        frame.extend([kind, 1, 0, 0, 0, 0, 0, 0]);
        frame.extend(quoted);
        frame
    }),
];

fn to_port<'a>(family: Family, port: u16) -> Segment<'a> {
    let mut segment = syn(family, PORT);
    segment.to.set_port(port);
    segment
}

/// What TCP's header says of its length.
pub fn set_words(frame: &mut [u8], family: Family, words: u8) {
    frame[ETHERNET + ip_length(is_v4(family)) + 12] = words << 4;
}

fn cut(mut frame: Vec<u8>, family: Family, length: usize) -> Vec<u8> {
    frame.truncate(ETHERNET + ip_length(is_v4(family)) + length);
    frame
}

#[test]
fn goes_on_untouched() -> Result<()> {
    let bench = Bench::start(Path::Direct)?;
    for family in FAMILIES {
        for (name, make) in FRAMES {
            let frame = make(&bench, family);
            untouched(&bench, "direct", &frame).context(name)?;
        }
        // What they are made of is truepeer's.
        answered(&bench, &syn(family, PORT))?;
    }
    Ok(())
}

pub fn untouched(bench: &Bench, program: &str, frame: &[u8]) -> Result<()> {
    let (ran, counted) = bench.count(program, bench.at_the_uplink(frame))?;
    ensure!(ran.code == NEXT, "{program} returned {}", ran.code);
    ensure!(ran.frame == frame, "{program} wrote into it");
    ensure!(counted.is_empty(), "{program} counted {counted:?}");
    Ok(())
}
