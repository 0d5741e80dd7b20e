//! What a frame says, by a parser that isn't ours.

use anyhow::{Context, Result, bail, ensure};
use etherparse::{NetHeaders, PacketHeaders, TcpHeader, TransportHeader};

/// A segment whose checksums are right.
pub struct Read {
    pub ethernet: [[u8; 6]; 2],
    pub source: std::net::SocketAddr,
    pub destination: std::net::SocketAddr,
    pub hops: u8,
    pub tcp: TcpHeader,
    pub payload: Vec<u8>,
}

pub fn read(frame: &[u8]) -> Result<Read> {
    let packet = PacketHeaders::from_ethernet_slice(frame)?;
    let link = packet.link.context("no Ethernet header")?;
    let ethernet = link.ethernet2().context("no Ethernet header")?;
    let Some(TransportHeader::Tcp(tcp)) = packet.transport else {
        bail!("no TCP header");
    };
    let payload = packet.payload.slice();
    let (source, destination, hops, sum) = match packet.net {
        Some(NetHeaders::Ipv4(ip, _)) => {
            ensure!(ip.header_checksum == ip.calc_header_checksum(), "IP's sum");
            let length = ETHERNET + usize::from(ip.total_len);
            ensure!(length == frame.len(), "a length of {length}");
            let sum = tcp.calc_checksum_ipv4(&ip, payload)?;
            (
                ip.source.into(),
                ip.destination.into(),
                ip.time_to_live,
                sum,
            )
        }
        Some(NetHeaders::Ipv6(ip, _)) => {
            let length = ETHERNET + 40 + usize::from(ip.payload_length);
            ensure!(length == frame.len(), "a length of {length}");
            let sum = tcp.calc_checksum_ipv6(&ip, payload)?;
            let [source, destination] = [ip.source, ip.destination].map(std::net::IpAddr::from);
            (source, destination, ip.hop_limit, sum)
        }
        _ => bail!("no IP header"),
    };
    ensure!(tcp.checksum == sum, "TCP's sum");
    Ok(Read {
        ethernet: [ethernet.destination, ethernet.source],
        source: (source, tcp.source_port).into(),
        destination: (destination, tcp.destination_port).into(),
        hops,
        payload: payload.to_vec(),
        tcp,
    })
}

const ETHERNET: usize = super::frame::ETHERNET;
