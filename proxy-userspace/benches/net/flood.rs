//! SYNs in the names of balancers that are allowed but don't exist, so that nobody answers theirs.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use etherparse::TcpOptionElement::{MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted};
use etherparse::TcpOptionElement::{Timestamp, WindowScale};
use etherparse::{PacketBuilder, TcpOptionElement};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny, sendmmsg};
use socket2::{Domain, Protocol, Socket, Type};

use crate::dial::Dialer;
use crate::window::Phase;

/// Part of every allowlist. The host's way there is by the balancer, which drops what isn't its own.
pub const SOURCES: &str = "192.0.2.0/24";
/// SYNs in a second, at most: no more than two busy cores send beside any of the contenders.
const RATE: f64 = 50_000.0;
/// SYNs per system call.
const BATCH: u32 = 32;
/// The packets bring their own IP header.
const WHOLE_PACKETS: i32 = 255;

/// What Linux sends. Every other SYN has the first of these only, as many tools' do.
const OPTIONS: [TcpOptionElement; 5] = [
    MaximumSegmentSize(1460),
    SelectiveAcknowledgementPermitted,
    Timestamp(1, 0),
    Noop,
    WindowScale(7),
];

/// Goes on until the phase is over. Returns how many there were in each second.
pub fn run(dialer: &Dialer, phase: &Phase) -> Result<f64> {
    dialer.place.settle();
    let raw = Some(Protocol::from(WHOLE_PACKETS));
    let socket = Socket::new(Domain::IPV4, Type::RAW, raw).context("a raw socket")?;
    let (start, mut sent) = (Instant::now(), 0);
    while !phase.is_over() {
        let packets = (sent..sent + BATCH).map(|number| syn(number, dialer.target));
        send(
            &socket,
            dialer.target,
            &packets.collect::<Result<Vec<_>>>()?,
        )?;
        sent += BATCH;
        let due = Duration::from_secs_f64(f64::from(sent) / RATE);
        thread::sleep(due.saturating_sub(start.elapsed()));
    }
    Ok(f64::from(sent) / start.elapsed().as_secs_f64())
}

fn send(socket: &Socket, target: SocketAddr, packets: &[Vec<u8>]) -> io::Result<()> {
    let slices: Vec<_> = packets
        .iter()
        .map(|packet| [IoSlice::new(packet)])
        .collect();
    let mut controls: Vec<_> = (0..packets.len())
        .map(|_| SendAncillaryBuffer::new(&mut []))
        .collect();
    let target = SocketAddrAny::from(target);
    let mut messages: Vec<_> = slices
        .iter()
        .zip(&mut controls)
        .map(|(slice, control)| MMsgHdr::new_with_addr(&target, slice, control))
        .collect();
    // Fewer than all are sent where a queue is full: no harm to a flood.
    sendmmsg(socket, &mut messages, SendFlags::empty())?;
    Ok(())
}

/// No two of a run come from the same address and port.
fn syn(number: u32, target: SocketAddr) -> Result<Vec<u8>> {
    let IpAddr::V4(to) = target.ip() else {
        bail!("the flood is IPv4");
    };
    let host = u8::try_from(number % 254)? + 1;
    let port = u16::try_from(1024 + number / 254 % 64_000)?;
    let options = if number.is_multiple_of(2) {
        &OPTIONS[..]
    } else {
        &OPTIONS[..1]
    };
    let packet = PacketBuilder::ipv4([192, 0, 2, host], to.octets(), 64)
        .tcp(
            port,
            target.port(),
            number.wrapping_mul(0x9e37_79b9),
            64_240,
        )
        .syn()
        .options(options)?;
    let mut bytes = Vec::with_capacity(packet.size(0));
    packet.write(&mut bytes, &[])?;
    Ok(bytes)
}
