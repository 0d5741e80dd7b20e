//! The running kernel's types, and where its structures have what the programs read of them.

use std::{fs, thread};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::Btf;
use aya_obj::btf::BtfError;
use btfparse::{Error, ErrorKind, Offset, Readable, TypeInformation};
use proxy_common::offsets::Offsets;

use super::kfunc;

/// Of linux/ip.h, counted from 0: a device's settings have it there.
const RP_FILTER: u32 = 7;
const SETTING: u32 = 4;

/// The kernel's types, and where its structures have what the programs for UDP read: reading either takes as long
/// as all else does here.
pub fn read(has_udp: bool) -> (Result<Btf, BtfError>, Offsets) {
    if !has_udp {
        return (Btf::from_sys_fs(), Offsets::UNKNOWN);
    }
    let (btf, offsets) = thread::scope(|scope| {
        let offsets = scope.spawn(offsets);
        (Btf::from_sys_fs(), offsets.join())
    });
    let offsets = match offsets {
        // Of no use without the way to the structures.
        Ok(Ok(_)) if !btf.as_ref().is_ok_and(kfunc::can_cast) => Offsets::UNKNOWN,
        Ok(Ok(offsets)) => offsets,
        Ok(Err(error)) => {
            tracing::debug!("datagrams always enter by lo: {error:#}");
            Offsets::UNKNOWN
        }
        Err(_panic) => Offsets::UNKNOWN,
    };
    (btf, offsets)
}

/// From the kernel's own description of its types.
fn offsets() -> Result<Offsets> {
    const TYPES: &str = "/sys/kernel/btf/vmlinux";
    let types = Bytes(fs::read(TYPES).context(TYPES)?);
    let types = TypeInformation::new(&types).map_err(|error| anyhow!("{TYPES}: {error:?}"))?;
    let bits = |structure: &str, member: &str| -> Result<u32> {
        let id = types.id_of(structure);
        let id = id.with_context(|| format!("the kernel has no {structure}"))?;
        match types.offset_of(id, member) {
            Ok((_, Offset::ByteOffset(offset))) => Ok(offset * u8::BITS),
            Ok((_, Offset::BitOffsetAndSize(offset, _))) => Ok(offset),
            Err(_) => bail!("the kernel's {structure} has no {member}"),
        }
    };
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

struct Bytes(Vec<u8>);

impl Readable for Bytes {
    fn read(&self, offset: u64, buffer: &mut [u8]) -> btfparse::Result<()> {
        let at = usize::try_from(offset).ok();
        let bytes = at.and_then(|at| self.0.get(at..)?.get(..buffer.len()));
        let bytes = bytes.ok_or_else(|| Error::new(ErrorKind::IOError, "past the end"))?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}
