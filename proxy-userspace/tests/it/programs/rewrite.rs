//! Segments of a connection that is direct.

use anyhow::{Context, Result, ensure};
use proxy_common::LO_MAC;

use super::answer;
use super::bench::{Bench, FAMILIES, NEXT, REDIRECT};
use super::frame::{ETHERNET, from_to, ip_length, lengthen_ip};
use crate::lab::forge::{ACK, PSH, Segment};
use crate::lab::path::Path;

const PAYLOADS: [&[u8]; 5] = [b"", b"a", b"ab", &[0xff; 1001], &[0; 1400]];
/// Of timestamps, SACK, and none.
const OPTIONS: [&[u8]; 3] = [
    &[],
    &[1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8],
    &[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2],
];

#[test]
fn get_the_other_addresses_and_right_sums() -> Result<()> {
    let bench = Bench::start(Path::Direct)?;
    for family in FAMILIES {
        let talk = bench.talk(family);
        let (balancer, service) = (talk.balancer.local_addr()?, talk.balancer.peer_addr()?);
        let (steered, client) = (talk.app.local_addr()?, talk.app.peer_addr()?);
        for payload in PAYLOADS {
            for options in OPTIONS {
                let up = Segment {
                    payload,
                    options,
                    ..from_to(balancer, service, ACK | PSH)
                };
                goes_up(
                    &bench,
                    &up,
                    Segment {
                        from: client,
                        to: steered,
                        ..up
                    },
                )
                .with_context(|| format!("up with {} bytes", payload.len()))?;
            }
        }
        let down = from_to(steered, client, ACK);
        goes_down(
            &bench,
            &down,
            Segment {
                from: service,
                to: balancer,
                ..down
            },
        )?;
    }
    Ok(())
}

/// In by lo, which has no address of the link layer.
fn goes_up(bench: &Bench, segment: &Segment<'_>, becomes: Segment<'_>) -> Result<()> {
    let frame = bench.frame(segment);
    let (ran, counted) = bench.count("direct", bench.at_the_uplink(&frame))?;
    ensure!(counted == ["direct_up"], "counted {counted:?}");
    ensure!(ran.code == REDIRECT, "returned {}", ran.code);
    let expected = becomes.frame([LO_MAC; 2]);
    ensure!(ran.frame == expected, "another frame");
    answer::read(&ran.frame)?;
    // The same behind IP options.
    let frame = lengthen_ip(frame);
    let ran = bench.run("direct", bench.at_the_uplink(&frame))?;
    let mut without = ran.frame.clone();
    let at = ETHERNET + ip_length(segment.to.is_ipv4());
    without.drain(at..at + 8);
    ensure!(without[at..] == expected[at..], "another TCP header");
    Ok(())
}

/// To the balancer, by the device that it is on its way by already, and to the neighbour that the host
/// would have sent it to: its own address is whose it was.
fn goes_down(bench: &Bench, segment: &Segment<'_>, becomes: Segment<'_>) -> Result<()> {
    let macs = [bench.balancers_mac, bench.hosts_mac];
    let frame = segment.frame(macs);
    let (ran, counted) = bench.count("reply", bench.at_the_uplink(&frame))?;
    ensure!(counted == ["direct_down"], "counted {counted:?}");
    ensure!(ran.code == NEXT, "returned {}", ran.code);
    ensure!(ran.frame == becomes.frame(macs), "another frame");
    answer::read(&ran.frame).map(drop)
}
