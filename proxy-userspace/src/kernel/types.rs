//! The running kernel's types, and where its structures have what the programs read of them.

use std::fs;

use anyhow::{Context as _, Result};
use aya::Btf;
use aya_obj::btf::BtfError;
use proxy_common::offsets::Offsets;

use super::{btf::Types, kfunc};

/// Of linux/ip.h, counted from 0: a device's settings have it there.
const RP_FILTER: u32 = 7;
const SETTING: u32 = 4;

/// The kernel's types, and where its structures have what the programs for UDP read.
pub fn read(has_udp: bool) -> (Result<Btf, BtfError>, Offsets) {
    let btf = Btf::from_sys_fs();
    // Of no use without the way to the structures.
    if !has_udp || !btf.as_ref().is_ok_and(kfunc::can_cast) {
        return (btf, Offsets::UNKNOWN);
    }
    let offsets = offsets().unwrap_or_else(|error| {
        tracing::debug!("datagrams always enter by lo: {error:#}");
        Offsets::UNKNOWN
    });
    (btf, offsets)
}

/// From the kernel's own description of its types.
fn offsets() -> Result<Offsets> {
    const TYPES: &str = "/sys/kernel/btf/vmlinux";
    let btf = fs::read(TYPES).context(TYPES)?;
    let types = Types::parse(&btf).context(TYPES)?;
    let bits = |structure: &str, member: &str| types.offset(structure, member);
    let of =
        |structure: &str, member: &str| Ok::<_, anyhow::Error>(bits(structure, member)? / u8::BITS);
    let summed = bits("sk_buff", "ip_summed")?;
    Ok(Offsets {
        device: of("sk_buff", "dev")?,
        upper: of("net_device", "adj_list.upper")?,
        ingress: of("net_device", "nf_hooks_ingress")?,
        v4: of("net_device", "ip_ptr")?,
        netns: of("net_device", "nd_net.net")?,
        rp_filter: of("in_device", "cnf.data")? + RP_FILTER * SETTING,
        all: of("net", "ipv4.devconf_all")?,
        all_rp_filter: of("ipv4_devconf", "data")? + RP_FILTER * SETTING,
        hooks4: of("net", "nf.hooks_ipv4")?,
        hooks6: of("net", "nf.hooks_ipv6")?,
        policies: of("net", "xfrm.policy_count")?,
        no_policy: of("net", "xfrm.policy_default")?,
        summed: summed / u8::BITS,
        summed_bit: summed % u8::BITS,
    })
}
