//! Where packets enter the host on their way to an application.

use aya_ebpf::programs::TcContext;
use proxy_common::{Counter, LO, LO_MAC, VETH_MAC};

use crate::{
    ctx::{self, Unreadable},
    maps,
    verdict::{Action, Verdict},
};

/// In by a device by which alone the application hears; `deliver` knows it there by the mark.
#[inline(always)]
pub fn enter_by(ctx: &TcContext, device: u32, what: Counter) -> Result<Verdict, Unreadable> {
    ctx::set_macs(ctx, LO_MAC)?;
    ctx.set_mark(maps::mark());
    Ok(Verdict::to(Action::In, device, what))
}

/// In by `lo`, or by the veth, where the mark tells it from what comes out of the spoof namespace.
#[inline(always)]
pub fn enter(ctx: &TcContext, what: Counter) -> Result<Verdict, Unreadable> {
    if maps::via_lo() {
        ctx::set_macs(ctx, LO_MAC)?;
        return Ok(Verdict::to(Action::In, LO, what));
    }
    ctx::set_macs(ctx, VETH_MAC)?;
    ctx.set_mark(maps::mark());
    Ok(Verdict::to(Action::In, maps::device(), what))
}
