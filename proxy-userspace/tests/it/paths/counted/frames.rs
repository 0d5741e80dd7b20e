//! Frames onto the host's link, in the balancer's name, that no kernel sends.

use std::net::IpAddr;

use anyhow::{Context, Result};
use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv6};

use super::Site;
use crate::lab::addr::BALANCER;
use crate::lab::forge::{SYN, SYN_OPTIONS, Segment};
use crate::lab::raw;
use crate::lab::spray::{Mac, Spray};

const FROM: Mac = [0x02, 0, 0, 0, 0, 0x66];
/// The length of its header.
const ETHERNET: usize = 14;

/// From one of the balancer's ports; the number is the port's as well.
pub fn syn<'a>(site: &Site, port: u16) -> Segment<'a> {
    Segment {
        number: port.into(),
        flags: SYN,
        options: SYN_OPTIONS,
        ..segment(site, port)
    }
}

pub fn segment<'a>(site: &Site, port: u16) -> Segment<'a> {
    let balancer = site.balancer().ip();
    Segment::between((balancer, port).into(), site.service())
}

pub fn send(site: &Site, segment: Segment<'_>) -> Result<()> {
    let spray = Spray::onto(&site.lab.edge, "host", site.lab.host.mac("edge")?)?;
    spray.send([segment])?;
    Ok(())
}

/// One whose TCP header says that it ends before its fixed part does.
pub fn send_too_short(site: &Site, segment: Segment<'_>) -> Result<()> {
    let mut frame = segment.frame([site.lab.host.mac("edge")?, FROM]);
    let ip = if segment.to.is_ipv4() { 20 } else { 40 };
    frame[ETHERNET + ip + 12] = 4 << 4;
    send_frame(site, &frame)
}

/// A router's word that it has lost what the service sent to the balancer's port.
pub fn send_unreachable(site: &Site, port: u16) -> Result<()> {
    let balancer = site.balancer().ip();
    let mut lost = Vec::new();
    Segment::between(site.service(), (balancer, port).into()).write(&mut lost);
    let router = site.of(BALANCER, 0).ip();
    let ethernet = PacketBuilder::ethernet2(FROM, site.lab.host.mac("edge")?);
    let mut frame = Vec::new();
    match (router, site.service().ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet
            .ipv4(from.octets(), to.octets(), 64)
            .icmpv4(Icmpv4Type::DestinationUnreachable(
                DestUnreachableHeader::Host,
            ))
            .write(&mut frame, &lost)?,
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet
            .ipv6(from.octets(), to.octets(), 64)
            .icmpv6(Icmpv6Type::DestinationUnreachable(
                icmpv6::DestUnreachableCode::Address,
            ))
            .write(&mut frame, &lost)?,
        _ => unreachable!("of one family"),
    }
    send_frame(site, &frame)
}

fn send_frame(site: &Site, frame: &[u8]) -> Result<()> {
    let socket = raw::sender(&site.lab.edge, "host")?;
    socket.send(frame).context("sending a frame")?;
    Ok(())
}
