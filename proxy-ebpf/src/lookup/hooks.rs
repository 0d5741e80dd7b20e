//! Who has a say on packets that come in by a device, besides the stack.
//!
//! What this host's administrator has put there counts packets by their device, and for an application's client
//! that has to be the one that it always was. So only where there is nobody do packets go on from the device that
//! they came by. This is asked for each one, as a firewall may come up between two.

use aya_ebpf::programs::TcContext;
use proxy_common::offsets::Offsets;

use crate::{
    ctx::Version,
    maps,
    wire::skb::{Pointer, field, kernels, read},
};

/// Of linux/netfilter.h: places on a packet's way to a socket.
const PRE_ROUTING: u32 = 0;
const LOCAL_IN: u32 = 1;
/// Of linux/xfrm.h.
const POLICY_IN: u32 = 0;
const BLOCK: u8 = 1;

/// Whether nothing of netfilter, no policy of IPsec, no reverse-path filter and no device that this one is a part
/// of has a say on this packet.
#[inline(always)]
pub fn are_absent(ctx: &TcContext, version: Version) -> bool {
    let at = maps::offsets();
    // SAFETY: a static's fields. The kernel's structures are its own to read: the verifier knows their types by
    // these offsets, and a read of what isn't there gives zero.
    unsafe {
        let of_device = read::<u32>(&raw const (*at).device);
        if of_device == 0 {
            return false;
        }
        let skb = kernels(ctx);
        let device = field::<Pointer>(skb, of_device);
        has_no_device_above(device, at)
            && field::<u64>(device, read(&raw const (*at).ingress)) == 0
            && is_unfiltered(device, version, at)
    }
}

/// Its list of them leads to itself.
#[inline(always)]
unsafe fn has_no_device_above(device: Pointer, at: *const Offsets) -> bool {
    // SAFETY: as in `are_absent`.
    unsafe {
        let upper = read(&raw const (*at).upper);
        field::<Pointer>(device, upper) == device.add(upper as usize)
    }
}

#[inline(always)]
unsafe fn is_unfiltered(device: Pointer, version: Version, at: *const Offsets) -> bool {
    // SAFETY: as in `are_absent`.
    unsafe {
        let netns = field::<Pointer>(device, read(&raw const (*at).netns));
        let hooks = match version {
            Version::V4 => read(&raw const (*at).hooks4),
            Version::V6 => read(&raw const (*at).hooks6),
        };
        let hook = |place: u32| field::<u64>(netns, hooks + place * size_of::<Pointer>() as u32);
        let policies = read(&raw const (*at).policies) + POLICY_IN * size_of::<u32>() as u32;
        let no_policy = read(&raw const (*at).no_policy) + POLICY_IN;
        hook(PRE_ROUTING) == 0
            && hook(LOCAL_IN) == 0
            && field::<u32>(netns, policies) == 0
            && field::<u8>(netns, no_policy) != BLOCK
            && (version == Version::V6 || has_no_rp_filter(device, netns, at))
    }
}

/// Of IPv4 alone: IPv6 has none but netfilter's.
#[inline(always)]
unsafe fn has_no_rp_filter(device: Pointer, netns: Pointer, at: *const Offsets) -> bool {
    // SAFETY: as in `are_absent`.
    unsafe {
        let v4 = field::<Pointer>(device, read(&raw const (*at).v4));
        let all = field::<Pointer>(netns, read(&raw const (*at).all));
        field::<u32>(v4, read(&raw const (*at).rp_filter)) == 0
            && field::<u32>(all, read(&raw const (*at).all_rp_filter)) == 0
    }
}
