//! Where the host's routes lead.

use core::mem::zeroed;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_SKIP_NEIGH,
        BPF_FIB_LOOKUP_SRC, bpf_fib_lookup as Fib,
    },
    helpers::bpf_fib_lookup,
    programs::TcContext,
};
use network_types::ip::IpProto;
use proxy_common::flow::Tuple;

use crate::{ctx::Version, maps};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The address from which this host itself would send to an IPv4 neighbour. None: Linux before 6.7
/// doesn't say.
#[inline(always)]
pub fn own_address(ctx: &TcContext, neighbour: u32) -> Option<u32> {
    let own = own_address_or_none(ctx, neighbour);
    (own != 0).then_some(own)
}

/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn own_address_or_none(ctx: &TcContext, neighbour: u32) -> u32 {
    const FLAGS: u32 = BPF_FIB_LOOKUP_SRC | BPF_FIB_LOOKUP_SKIP_NEIGH;
    // SAFETY: made of integers.
    let mut fib: Fib = unsafe { zeroed() };
    fib.family = AF_INET;
    fib.ifindex = maps::device();
    fib.__bindgen_anon_4.ipv4_dst = neighbour;
    let len = size_of_val(&fib) as i32;
    // SAFETY: `fib` lives on this stack, and the kernel gets its length.
    let found = unsafe { bpf_fib_lookup(ctx.skb.skb.cast(), &raw mut fib, len, FLAGS) };
    if found as u32 != BPF_FIB_LKUP_RET_SUCCESS {
        return 0;
    }
    // SAFETY: a number, whoever wrote the union last.
    unsafe { fib.__bindgen_anon_3.ipv4_src }
}

/// Whether a device is there.
///
/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
pub fn is_there(ctx: &TcContext, device: u32) -> bool {
    const ENODEV: i32 = -19;
    // SAFETY: made of integers.
    let mut fib: Fib = unsafe { zeroed() };
    fib.family = AF_INET;
    fib.ifindex = device;
    let len = size_of_val(&fib) as i32;
    // SAFETY: `fib` lives on this stack, and the kernel gets its length.
    let found = unsafe { bpf_fib_lookup(ctx.skb.skb.cast(), &raw mut fib, len, 0) };
    found as i32 != ENODEV
}

/// The way of a packet from the spoof namespace. Its neighbour is the kernel's to find.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Way {
    /// The index of the device that it would leave by.
    pub device: u32,
    /// The largest packet on this way.
    pub mtu: u32,
    /// The neighbour's address, or zeroes if the kernel doesn't know it.
    pub mac: [u8; 6],
}

/// By the whole of the host's routing for a packet of this tuple; none: there is no way out.
#[inline(always)]
pub fn way(ctx: &TcContext, version: Version, tuple: &Tuple, protocol: IpProto) -> Option<Way> {
    let mut way = Way::default();
    let is_v4 = version == Version::V4;
    way_once(ctx.skb.skb, is_v4, tuple, protocol as u8, &raw mut way).then_some(way)
}

/// A function that the verifier goes through once, and not from wherever it is called.
#[unsafe(export_name = "way")]
#[inline(never)]
extern "C" fn way_once(
    skb: *mut __sk_buff,
    is_v4: bool,
    tuple: *const Tuple,
    protocol: u8,
    way: *mut Way,
) -> bool {
    // SAFETY: of the caller's, if they aren't null, which the verifier has asked about.
    match unsafe { (tuple.as_ref(), way.as_mut()) } {
        (Some(tuple), Some(way)) => look_up(skb, Version::if_v4(is_v4), tuple, protocol, way),
        _ => false,
    }
}

#[inline(always)]
fn look_up(
    skb: *mut __sk_buff,
    version: Version,
    tuple: &Tuple,
    protocol: u8,
    way: &mut Way,
) -> bool {
    /// Any way takes a packet of it.
    const LEAST_LEN: u16 = 1;
    let [from, to] = tuple.addresses().map(|addr| addr.words());
    // SAFETY: made of integers.
    let mut fib: Fib = unsafe { zeroed() };
    fib.l4_protocol = protocol;
    [fib.sport, fib.dport] = tuple.ports();
    fib.ifindex = maps::device();
    // Without a length the kernel tells the device's MTU alone, and not what routers have said of the path.
    fib.__bindgen_anon_1.tot_len = LEAST_LEN;
    match version {
        Version::V4 => {
            fib.family = AF_INET;
            fib.__bindgen_anon_3.ipv4_src = from[3];
            fib.__bindgen_anon_4.ipv4_dst = to[3];
        }
        Version::V6 => {
            fib.family = AF_INET6;
            fib.__bindgen_anon_3.ipv6_src = from;
            fib.__bindgen_anon_4.ipv6_dst = to;
        }
    }
    /// Every IPv6 link takes as much, and hardly any IPv4 link less.
    const LEAST_MTU: u32 = 1280;
    let len = size_of_val(&fib) as i32;
    // SAFETY: `fib` lives on this stack, and the kernel gets its length.
    let found = unsafe { bpf_fib_lookup(skb.cast(), &raw mut fib, len, 0) };
    // SAFETY: both fields of the union are numbers of 16 bits.
    let mtu = match unsafe { fib.__bindgen_anon_1.mtu_result } {
        // Not told without a neighbour.
        LEAST_LEN => LEAST_MTU,
        mtu => mtu.into(),
    };
    *way = Way {
        device: fib.ifindex,
        mtu,
        mac: fib.dmac,
    };
    matches!(
        found as u32,
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH
    )
}
