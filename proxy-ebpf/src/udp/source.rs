//! What an application answers from. An unconnected socket at a wildcard address would answer from the
//! address that its route has, and one at 127.0.0.1 couldn't answer at all: both answer from where their
//! client's datagrams are sent to.

use aya_ebpf::programs::SockAddrContext;
use proxy_common::{Addr, Endpoint, Life, flow::Tuple};

use crate::{maps, steer::unrouted::is_hosts};

/// Whether what a socket sends to this IPv4 address is a reply, which has the right source from here on.
#[inline(always)]
pub fn v4(ctx: &SockAddrContext) -> bool {
    let at = ctx.sock_addr;
    // SAFETY: the kernel hands every program a valid context.
    let (client, source) = unsafe {
        (
            (&raw const (*at).user_ip4).read_volatile(),
            (&raw const (*at).msg_src_ip4).read_volatile(),
        )
    };
    let Some(aim) = aim(ctx, Addr::from_v4(source), Addr::from_v4(client)) else {
        return false;
    };
    let [.., word] = aim.words();
    // SAFETY: as above.
    unsafe { (&raw mut (*at).msg_src_ip4).write_volatile(word) };
    true
}

/// The same of a socket of IPv6.
#[inline(always)]
pub fn v6(ctx: &SockAddrContext) -> bool {
    let at = ctx.sock_addr;
    // SAFETY: as above; the verifier wants each word for itself.
    let read = |field: *const [u32; 4]| unsafe {
        let field = field.cast::<u32>();
        Addr::from_v6([0, 1, 2, 3].map(|word| field.add(word).read_volatile()))
    };
    // SAFETY: as above.
    let (client, source) = unsafe {
        (
            read(&raw const (*at).user_ip6),
            read(&raw const (*at).msg_src_ip6),
        )
    };
    let Some(aim) = aim(ctx, source, client) else {
        return false;
    };
    let [a, b, c, d] = aim.words();
    // SAFETY: as above.
    unsafe {
        let field = (&raw mut (*at).msg_src_ip6).cast::<u32>();
        field.write_volatile(a);
        field.add(1).write_volatile(b);
        field.add(2).write_volatile(c);
        field.add(3).write_volatile(d);
    }
    true
}

/// Where this client's datagrams for the application of this socket are sent to, if there is a flow. Where
/// the application is for clients of balancers alone, what it still has to say to one that is forgotten leaves
/// from there as well, and doesn't get far.
#[inline(always)]
fn aim(ctx: &SockAddrContext, source: Addr, client: Addr) -> Option<Addr> {
    if !maps::any_is_receiving() || maps::life(Life::Ending) != 0 || !is_hosts(ctx) {
        return None;
    }
    // SAFETY: as above.
    let (port, client_port) = unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if socket.is_null() {
            return None;
        }
        (
            (*socket).src_port as u16,
            (&raw const (*ctx.sock_addr).user_port).read_volatile() as u16,
        )
    };
    let aim = maps::aim(&Endpoint::new(source, port))?;
    let to = Endpoint::new(client, u16::from_be(client_port));
    let is_clients = maps::find_datagram_flow(&Tuple::new(*aim.at(), to)).is_some();
    // A check that runs beside the daemon has programs of its own.
    let is_anybodys =
        !aim.is_exclusive() || client.is_martian() || client.is_nobodys() || maps::is_own(&client);
    (is_clients || !is_anybodys).then_some(aim.at().addr())
}
