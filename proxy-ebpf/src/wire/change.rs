//! What other addresses, ports and bytes of the payload do to a datagram's checksum.

use aya_ebpf::{bindings::BPF_F_PSEUDO_HDR, programs::TcContext};
use proxy_common::checksum::{add, fold};

use super::{UNSET, replace_sum, skb::Summed};
use crate::ctx::{self, Link, Unreadable, Version};

/// By what each part of a datagram changes its checksum.
pub struct Change {
    /// The datagram's as it was.
    pub check: u16,
    pub length: u32,
    pub addresses: u32,
    pub ports: u32,
    pub payload: u32,
}

impl Change {
    /// The checksum as it is to be, where it tells by itself. Of several datagrams in one it is the sum of the
    /// pseudo-header alone, from which those of each are made.
    #[inline(always)]
    pub fn checked(&self, ctx: &TcContext, summed: Summed) -> Option<u16> {
        let Self {
            check,
            length,
            addresses,
            ports,
            payload,
        } = *self;
        if check == 0 {
            return Some(0);
        }
        if ctx::is_many(ctx) {
            return Some(fold(add(addresses, check.into())));
        }
        let pseudo = add(addresses, length);
        match summed {
            Summed::Partial => Some(fold(add(pseudo, check.into()))),
            Summed::Whole => {
                let rest = add(add(length, ports), payload);
                let sum = !fold(add(add(pseudo, rest), (!check).into()));
                // 0 says that there is none.
                Some(if sum == 0 { !0 } else { sum })
            }
            Summed::Other => None,
        }
    }

    /// Changes the checksum at `check`, after the payload and the headers. One that is yet to be made
    /// (CHECKSUM_PARTIAL) is the pseudo-header's so far; where nothing says whether it is, the kernel's helper does, as
    /// it leaves such a one alone.
    #[inline(always)]
    pub fn fix(&self, ctx: &TcContext, version: Version, check: usize) -> Result<(), Unreadable> {
        const PSEUDO: u64 = UNSET | BPF_F_PSEUDO_HDR as u64;
        let Self {
            length,
            addresses,
            ports,
            payload,
            ..
        } = *self;
        // What is no change doesn't tell.
        let is_none = fold(add(length, ports)).wrapping_add(1) <= 1;
        let (header, rest) = match is_none {
            true => (length, ports),
            false => (add(length, ports), 0),
        };
        replace_sum(ctx, check, header, UNSET)?;
        let pseudo = add(length, addresses);
        let is_partial = ctx::peek::<u16>(ctx, Link::ETHERNET, check)? == self.check;
        if is_partial {
            return replace_sum(ctx, check, pseudo, PSEUDO);
        }
        // The kernel's sum of the whole packet, if there is one, has followed the payload, but knows nothing of what
        // was written into headers: IPv4's sum makes up for what else is in its header, IPv6 has none.
        match version {
            Version::V4 => replace_sum(ctx, check, add(pseudo, payload), PSEUDO)?,
            Version::V6 => {
                replace_sum(ctx, check, pseudo, UNSET)?;
                replace_sum(ctx, check, payload, PSEUDO)?;
            }
        }
        if rest != 0 {
            replace_sum(ctx, check, rest, UNSET)?;
        }
        Ok(())
    }
}
