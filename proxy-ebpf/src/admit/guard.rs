//! At a device's driver: who is on no list of a guarded service's gets no further. What can't be read in one look goes
//! on, and is refused later.

use aya_ebpf::programs::XdpContext;
use network_types::ip::IpProto;
use proxy_common::{Addr, Counter, Endpoint, Guarded, mac_word};

use crate::maps;

const ETHERNET_LEN: usize = 14;
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
const IPV6_LEN: usize = 40;
/// More fragments, or an offset.
const IN_PIECES: u16 = 0x3fff_u16.to_be();
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// Of TCP's header, behind the ports.
const FLAGS: usize = 13;

/// What a packet is dropped as.
#[inline(always)]
pub fn guard(ctx: &XdpContext) -> Option<Counter> {
    let packet = Packet::read(ctx)?;
    let (service, what) = match packet.protocol {
        IpProto::Tcp => (packet.opened()?, Counter::GuardSyn),
        _ => (packet.received()?, Counter::GuardDatagram),
    };
    // SAFETY: the kernel hands every program a valid context.
    let device = unsafe { (*ctx.ctx).ingress_ifindex };
    let is_guarded = maps::guarded(&Guarded { device, service }) == Some(packet.mac);
    let is_dropped = is_guarded
        && maps::is_local(&packet.to.addr()) == Some(true)
        && !maps::allows(service, &packet.from);
    is_dropped.then_some(what)
}

/// A SYN or a datagram in one piece.
struct Packet {
    /// The device that it is for.
    mac: u64,
    protocol: IpProto,
    from: Addr,
    to: Endpoint,
}

impl Packet {
    #[inline(always)]
    fn read(ctx: &XdpContext) -> Option<Self> {
        let mac = mac_word(at(ctx, 0)?);
        let (protocol, from, to, behind) = match at::<u16>(ctx, ETHERNET_LEN - 2)? {
            IPV4 => ipv4(ctx)?,
            IPV6 => ipv6(ctx)?,
            _ => return None,
        };
        let protocol = match protocol {
            6 if at::<u8>(ctx, behind + FLAGS)? & (SYN | ACK) == SYN => IpProto::Tcp,
            17 => IpProto::Udp,
            _ => return None,
        };
        let port = u16::from_be(at(ctx, behind + 2)?);
        Some(Self {
            mac,
            protocol,
            from,
            to: Endpoint::new(to, port),
        })
    }

    /// The service that a SYN is for.
    #[inline(always)]
    fn opened(&self) -> Option<u32> {
        if !maps::is_served(self.to.port() as u16) {
            return None;
        }
        maps::listener_at(&self.to).map(|listener| listener.service())
    }

    /// The service that a datagram is for.
    #[inline(always)]
    fn received(&self) -> Option<u32> {
        if !maps::is_receiving(self.to.port() as u16) {
            return None;
        }
        maps::receiver_at(&self.to).map(|receiver| receiver.service())
    }
}

/// A protocol, from whom, to whom, and where the protocol's header is.
type Ip = (u8, Addr, Addr, usize);

#[inline(always)]
fn ipv4(ctx: &XdpContext) -> Option<Ip> {
    if at::<u16>(ctx, ETHERNET_LEN + 6)? & IN_PIECES != 0 {
        return None;
    }
    let words = at::<u8>(ctx, ETHERNET_LEN)? & 0xf;
    let address = |offset| Some(Addr::from_v4(at(ctx, ETHERNET_LEN + offset)?));
    let behind = ETHERNET_LEN + usize::from(words) * size_of::<u32>();
    Some((
        at(ctx, ETHERNET_LEN + 9)?,
        address(12)?,
        address(16)?,
        behind,
    ))
}

#[inline(always)]
fn ipv6(ctx: &XdpContext) -> Option<Ip> {
    let address = |offset| Some(Addr::from_v6(at(ctx, ETHERNET_LEN + offset)?));
    let behind = ETHERNET_LEN + IPV6_LEN;
    Some((
        at(ctx, ETHERNET_LEN + 6)?,
        address(8)?,
        address(24)?,
        behind,
    ))
}

/// What is there, if the packet is that long in one piece of memory.
#[inline(always)]
fn at<T: Copy>(ctx: &XdpContext, offset: usize) -> Option<T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: inside the packet, as was just asked; any bytes are a value of these types.
    Some(unsafe { (start as *const T).read_unaligned() })
}
