//! Datagrams in IP fragments, one of which somebody else has sent by another link. The programs look at the
//! first ones' devices; as to the others, a filter of the host's has to, before the stack puts them together.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use nix::libc::IPPROTO_RAW;
use socket2::{Domain, Protocol, Socket, Type};

use super::links::other_link;
use super::rows;
use super::site::{Plan, Site};
use crate::lab::Lab;
use crate::lab::addr::HOST;
use crate::lab::forge::{checksum, sum};
use crate::steering::site::{nft, sysctl};

rows! {
    a_forged_last_piece_is_the_host_s_to_drop;
}

pub const UDP: u8 = 17;
/// Where a datagram is cut: with its header, it is longer.
pub const FIRST: usize = 800;
/// Of what the balancer says, and of what is forged: they have the same checksum.
const RIGHT: [u8; 2000] = [7; 2000];
const FORGED: [u8; 4] = [6, 7, 8, 7];

fn a_forged_last_piece_is_the_host_s_to_drop(plan: Plan<'_>) -> Result<()> {
    let is_v4 = (plan.family)(HOST, 0).is_ipv4();
    let set_up = |lab: &Lab| {
        other_link(lab)?;
        match is_v4 {
            true => sysctl(&lab.host, "ipv4/conf/second/rp_filter", "1"),
            false => nft(&lab.host, REVERSE_PATH),
        }
    };
    let set_up = &set_up;
    let site = Plan { set_up, ..plan }.start()?;
    let balancer = site.balancer()?;
    let datagram = datagram(&site, balancer.local_addr()?, &RIGHT);
    let (first, last) = datagram.split_at(FIRST);
    let forged = FORGED.repeat(last.len() / FORGED.len());
    ensure!(sum(&forged) == sum(last), "another checksum");
    let [right, wrong] = ["host", "second"].map(|device| by(&site, device));
    let (right, wrong) = (right?, wrong?);
    let to = site.service();
    for id in 1..=4 {
        let send = |socket: &Socket, at, bytes: &[u8]| {
            let piece = piece([balancer.local_addr()?.ip(), to.ip()], id, at, bytes);
            Ok::<_, anyhow::Error>(socket.send_to(&piece, &SocketAddr::new(to.ip(), 0).into())?)
        };
        // Whichever comes first, the stack takes.
        if id % 2 == 0 {
            send(&wrong, FIRST, &forged)?;
        }
        send(&right, 0, first)?;
        send(&wrong, FIRST, &forged)?;
        send(&right, FIRST, last)?;
        site.app_got(1000, &RIGHT)?;
        site.answered(&balancer, 1000, &RIGHT)?;
    }
    site.leaks.saw_none()
}

/// Before conntrack puts pieces together, at -400.
const REVERSE_PATH: &str = "add table inet strict
    add chain inet strict early { type filter hook prerouting priority -450 ; }
    add rule inet strict early iif second fib saddr . iif oif missing drop";

/// Takes whole packets, which leave by this device.
pub fn by(site: &Site, device: &str) -> Result<Socket> {
    let domain = Domain::for_address(site.service());
    let protocol = Some(Protocol::from(IPPROTO_RAW));
    let socket = site
        .lab
        .edge
        .enter(|| Socket::new(domain, Type::RAW, protocol))?;
    socket.bind_device(Some(device.as_bytes()))?;
    Ok(socket)
}

/// With its UDP header and the balancer's.
pub fn datagram(site: &Site, from: SocketAddr, words: &[u8]) -> Vec<u8> {
    let to = site.service();
    let payload = [&site.header(1000)[..], words].concat();
    let [high, low] = be16(8 + payload.len());
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    let mut udp = [&ports[..], &[high, low, 0, 0], &payload].concat();
    let pseudo = [octets(from.ip()), octets(to.ip()), vec![0, UDP, high, low]].concat();
    let sum = checksum(sum(&pseudo) + sum(&udp));
    udp[6..8].copy_from_slice(&sum);
    udp
}

pub fn piece([from, to]: [IpAddr; 2], id: u8, at: usize, bytes: &[u8]) -> Vec<u8> {
    let more = at == 0;
    let head = match from {
        IpAddr::V4(_) => {
            let [high, low] = be16(20 + bytes.len());
            let [place, rest] = be16((at / 8) | (usize::from(more) << 13));
            // The kernel makes the checksum.
            vec![0x45, 0, high, low, 0, id, place, rest, 64, UDP, 0, 0]
        }
        IpAddr::V6(_) => {
            let [high, low] = be16(8 + bytes.len());
            vec![0x60, 0, 0, 0, high, low, 44, 64]
        }
    };
    let behind = match from {
        IpAddr::V4(_) => Vec::new(),
        IpAddr::V6(_) => {
            let [place, rest] = be16(at | usize::from(more));
            vec![UDP, 0, place, rest, 0, 0, 0, id]
        }
    };
    [&head[..], &octets(from), &octets(to), &behind, bytes].concat()
}

pub fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

pub fn be16(number: usize) -> [u8; 2] {
    u16::try_from(number)
        .expect("a packet's length")
        .to_be_bytes()
}
