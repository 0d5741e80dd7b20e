//! The kernel function that makes a connection of a segment.

use core::{ffi::c_int, mem::transmute};

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skc_to_tcp_sock, programs::TcContext};
use proxy_common::{Host, cookie::Agreed, flow::Tuple, kfunc::ASSIGN_TCP_REQSK};

use super::socket::{HERE, LISTEN, with_socket};
use crate::ctx::Version;

/// `struct bpf_tcp_req_attrs` of the kernel's net/tcp.h, since 6.9.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Attrs {
    rcv_tsval: u32,
    rcv_tsecr: u32,
    mss: u16,
    rcv_wscale: u8,
    snd_wscale: u8,
    ecn_ok: u8,
    wscale_ok: u8,
    sack_ok: u8,
    tstamp_ok: u8,
    usec_ts_ok: u8,
    reserved: [u8; 3],
}

impl Attrs {
    /// What a handshake has agreed on, and the timestamp and echo of the segment that follows it.
    #[inline(always)]
    pub fn new(agreed: &Agreed, host: &Host, value: u32, echo: u32) -> Self {
        let mut attrs = Self {
            mss: agreed.mss,
            sack_ok: agreed.sack.into(),
            ..Self::default()
        };
        if let Some(scale) = agreed.scale {
            attrs.wscale_ok = 1;
            attrs.snd_wscale = scale;
            attrs.rcv_wscale = host.scale as u8;
        }
        if agreed.timestamps {
            attrs.tstamp_ok = 1;
            attrs.rcv_tsval = value;
            attrs.rcv_tsecr = echo;
        }
        attrs
    }
}

/// Makes the segment a connection of the listener that hears one of this tuple, without a handshake with
/// it. False: there is no such listener, or it can't have it, as MPTCP's or one that hears by one device
/// alone, where not all of the connection comes by; the segment is as it was.
#[inline(always)]
pub fn assign(ctx: &TcContext, version: Version, tuple: &Tuple, attrs: &mut Attrs) -> bool {
    let assigned = with_socket(ctx, version, tuple, HERE, |socket| {
        // SAFETY: `socket` is the reference that the lookup just took; what is no full TCP socket
        // gives null.
        unsafe {
            if (*socket).state != LISTEN || (*socket).bound_dev_if != 0 {
                return false;
            }
            let listener = bpf_skc_to_tcp_sock(socket.cast());
            !listener.is_null() && assign_tcp_reqsk(ctx.skb.skb, listener.cast(), attrs) == 0
        }
    });
    assigned.unwrap_or(false)
}

/// aya 0.14 resolves no kernel functions: the loader knows the call by the number, which no helper
/// has, and puts the function's id in its place.
#[inline(always)]
unsafe fn assign_tcp_reqsk(
    skb: *mut __sk_buff,
    listener: *mut core::ffi::c_void,
    attrs: *mut Attrs,
) -> c_int {
    type Function =
        unsafe extern "C" fn(*mut __sk_buff, *mut core::ffi::c_void, *mut Attrs, c_int) -> c_int;
    // SAFETY: compiles to a call of this number.
    let function = unsafe { transmute::<usize, Function>(ASSIGN_TCP_REQSK.number as usize) };
    // SAFETY: the verifier checks the arguments' types.
    unsafe { function(skb, listener, attrs, size_of::<Attrs>() as c_int) }
}
