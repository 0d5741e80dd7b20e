//! Of the socket that has sent a packet.

use aya_ebpf::{bindings::bpf_sock, programs::TcContext};
use proxy_common::{Addr, Endpoint};

use super::{Version, skb};

/// The addresses of the socket that has sent the packet, its own and its peer's, as the socket has them.
#[inline(always)]
pub fn socket_addresses(ctx: &TcContext, version: Version) -> Option<[Addr; 2]> {
    // SAFETY: the kernel's pointer, which may be null.
    unsafe {
        let socket = skb(ctx).__bindgen_anon_2.sk;
        (!socket.is_null()).then(|| addresses(socket, version))
    }
}

/// The same of any socket.
///
/// # Safety
///
/// It is one that the kernel has given, and not null.
#[inline(always)]
pub unsafe fn addresses(socket: *const bpf_sock, version: Version) -> [Addr; 2] {
    // SAFETY: of the caller's; these fields every kind of socket has.
    unsafe {
        // All of them, each for itself: the verifier takes no offset that depends on anything.
        let word = |field: *const u32| field.read_volatile();
        let words =
            |field: *const [u32; 4]| [0, 1, 2, 3].map(|at| word(field.cast::<u32>().add(at)));
        let v4 = [
            word(&raw const (*socket).src_ip4),
            word(&raw const (*socket).dst_ip4),
        ];
        let v6 = [
            words(&raw const (*socket).src_ip6),
            words(&raw const (*socket).dst_ip6),
        ];
        match version {
            Version::V4 => v4.map(Addr::from_v4),
            Version::V6 => v6.map(Addr::from_v6),
        }
    }
}

/// Where the socket that has sent the packet is bound: an address, or none, and a port.
#[inline(always)]
pub fn socket_endpoint(ctx: &TcContext, version: Version) -> Option<Endpoint> {
    let [own, _] = socket_addresses(ctx, version)?;
    // SAFETY: as above; there is one.
    let port = unsafe { (*skb(ctx).__bindgen_anon_2.sk).src_port };
    Some(Endpoint::new(own, port as u16))
}
