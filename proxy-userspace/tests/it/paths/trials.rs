//! Networks and hosts that a direct connection has to stand, each of which has broken something that
//! looked as good.

use std::mem::MaybeUninit;

use anyhow::{Context, Result, ensure};
use socket2::Socket;

use super::site::Site;
use super::{CLIENT_PORT, MIB, Plan, only, paths};
use crate::lab::Lab;
use crate::lab::lossy::{Counted, Faults, Mangle, Nature};
use crate::lab::talk::Side;
use crate::lab::tuntap::Layer;
use crate::lab::{mangle, raw};
use crate::steering::devices::bridge_uplink;
use crate::steering::site::{ip, sysctl};

only! {
    direct:
    /// As WireGuard's: the balancer's packets come without an Ethernet header.
    balancer_by_a_tun;
    uplink_is_a_port_of_a_bridge;
    uplink_with_a_macvlan;
    fragmenting_path;
    ip_options_in_mid_connection;
    big_tcp;
    timestamps_padded_otherwise;
    no_timestamps_at_all;
    every_segment_twice;
    late_segments;
    /// Whose clocks are not those of the kernel's programs.
    daemon_in_a_time_namespace;
}

paths! {
    rp_filter_strict_on_all_of_late;
    rp_filter_strict_on_lo_of_late;
}

fn rp_filter_strict_on_all_of_late(plan: Plan<'_>) -> Result<()> {
    rp_filter_of_late(plan, "all")
}

fn rp_filter_strict_on_lo_of_late(plan: Plan<'_>) -> Result<()> {
    rp_filter_of_late(plan, "lo")
}

/// `lo` takes no packets of clients any more, while the daemon runs.
fn rp_filter_of_late(plan: Plan<'_>, device: &str) -> Result<()> {
    let site = plan.start()?;
    let mut open = site.warm(CLIENT_PORT)?;
    sysctl(
        &site.lab.host,
        &format!("ipv4/conf/{device}/rp_filter"),
        "1",
    )?;
    let mut late = site.open(CLIENT_PORT + 1)?;
    for talk in [&mut open, &mut late] {
        talk.round_trip()?;
        talk.transfer(&Side::BOTH, MIB)?;
    }
    Ok(())
}

fn balancer_by_a_tun(plan: Plan<'_>) -> Result<()> {
    wired(plan, Nature::sound(Layer::Tun)).map(drop)
}

fn uplink_is_a_port_of_a_bridge(plan: Plan<'_>) -> Result<()> {
    holds(plan, &bridge_uplink)
}

fn uplink_with_a_macvlan(plan: Plan<'_>) -> Result<()> {
    holds(plan, &|lab| {
        // Or the device below answers for the address as well.
        sysctl(&lab.host, "ipv4/conf/all/arp_ignore", "1")?;
        ip(
            &lab.host,
            "link add link edge name upper type macvlan mode bridge
             link set upper up addrgenmode none
             address flush dev edge
             address add fe80::2/64 dev upper nodad
             address add 198.51.100.2/24 dev upper
             address add 2001:db8:e::2/64 dev upper nodad
             route replace default via 198.51.100.1
             -6 route replace default via 2001:db8:e::1",
        )
    })
}

fn fragmenting_path(plan: Plan<'_>) -> Result<()> {
    mangled(plan, mangle::fragment)
}

fn ip_options_in_mid_connection(plan: Plan<'_>) -> Result<()> {
    const LONG: usize = 1000;
    mangled(plan, |packet| match packet.len() {
        LONG.. => mangle::ip_options(packet),
        _ => vec![packet.to_vec()],
    })
}

fn timestamps_padded_otherwise(plan: Plan<'_>) -> Result<()> {
    mangled(plan, mangle::timestamps_first)
}

/// As clients of an AWS NLB have it whose own stacks have none.
fn no_timestamps_at_all(plan: Plan<'_>) -> Result<()> {
    holds(plan, &|lab| {
        [&lab.edge, &lab.host]
            .into_iter()
            .try_for_each(|netns| sysctl(netns, "ipv4/tcp_timestamps", "0"))
    })
}

fn every_segment_twice(plan: Plan<'_>) -> Result<()> {
    let counted = faulty(plan, |faults| faults.doubled = 1000)?;
    ensure!(counted.doubled * 3 > counted.passed, "{counted:?}");
    Ok(())
}

/// One in three comes after those that it was sent before.
fn late_segments(plan: Plan<'_>) -> Result<()> {
    let counted = faulty(plan, |faults| faults.late = 300)?;
    ensure!(counted.late > 100, "{counted:?}");
    Ok(())
}

fn daemon_in_a_time_namespace(plan: Plan<'_>) -> Result<()> {
    let mut site = plan.start()?;
    site.kill()?;
    site.lab.no_device_left()?;
    let daemon = plan.truepeer(&site.lab).in_time_namespace();
    site.truepeer = daemon.start()?;
    carries(&site)
}

/// Packets of up to 200,000 bytes in one piece; an IPv6 packet of that size says 0 for its length.
fn big_tcp(plan: Plan<'_>) -> Result<()> {
    const SIZES: &str = "gso_max_size 200000 gro_max_size 200000";
    // Those sizes are IPv6's; the other family has 16 bits for a length.
    let least = if plan.is_v4() { 60_000 } else { 70_000 };
    let site = Plan {
        set_up: &|lab| {
            // Nothing makes them larger than the windows are.
            for netns in [&lab.edge, &lab.host] {
                sysctl(netns, "ipv4/tcp_rmem", "4096 4194304 16777216")?;
                sysctl(netns, "ipv4/tcp_wmem", "4096 4194304 16777216")?;
            }
            lab.edge.ip(&format!("link set host {SIZES}"))?;
            lab.host.ip(&format!("link set edge {SIZES}"))
        },
        ..plan
    }
    .start()?;
    let socket = raw::tap(&site.lab.edge)?;
    let talk = site.warm(CLIENT_PORT)?;
    talk.both_ways(16 * MIB).context("in bulk")?;
    talk.close(Side::Balancer)?;
    let largest = largest(&socket)?;
    ensure!(largest > least, "the largest packet has {largest} bytes");
    carries(&site)
}

/// Of all packets that the tap has seen.
fn largest(socket: &Socket) -> Result<usize> {
    socket.set_nonblocking(true)?;
    let mut largest = 0;
    // cut off to one byte, it still says how long it was
    while let Ok(length) = socket.recv_with_flags(&mut [MaybeUninit::uninit()], libc::MSG_TRUNC) {
        largest = largest.max(length);
    }
    Ok(largest)
}

fn holds(plan: Plan<'_>, set_up: &dyn Fn(&Lab) -> Result<()>) -> Result<()> {
    carries(&Plan { set_up, ..plan }.start()?)
}

fn wired(plan: Plan<'_>, nature: Nature) -> Result<Counted> {
    let wire = Some(nature);
    let site = Plan { wire, ..plan }.start()?;
    carries(&site)?;
    Ok(site.wire.as_ref().context("a wire")?.counted())
}

fn mangled(plan: Plan<'_>, mangle: Mangle) -> Result<()> {
    let mangle = Some(mangle);
    let counted = wired(
        plan,
        Nature {
            mangle,
            ..Nature::sound(Layer::Tap)
        },
    )?;
    ensure!(counted.mangled > 1000, "{counted:?}");
    Ok(())
}

fn faulty(plan: Plan<'_>, which: fn(&mut Faults)) -> Result<Counted> {
    let mut nature = Nature::sound(Layer::Tap);
    which(&mut nature.faults);
    wired(plan, nature)
}

/// Messages for longer than it took to break, bulk, an end, and nothing that is left.
pub fn carries(site: &Site) -> Result<()> {
    let mut talk = site.warm(CLIENT_PORT + 1)?;
    talk.ping_pong(64, 100).context("messages")?;
    talk.ping_pong(4, 20_000).context("long messages")?;
    talk.both_ways(4 * MIB).context("in bulk")?;
    // The application's end is in no TIME_WAIT then, for which flows stay a while.
    talk.close(Side::Balancer).context("an end")?;
    site.no_flow_left()
}
