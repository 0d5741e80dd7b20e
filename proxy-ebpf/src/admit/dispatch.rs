//! Socket lookup on the host: a connection to a service goes to its listeners if the allowlist
//! has the balancer, and nowhere otherwise. One to a steer address goes to the application that
//! `deliver` has found.

use aya_ebpf::{bindings::bpf_sk_lookup, programs::SkLookupContext};
use aya_log_ebpf::warn;
use network_types::ip::IpProto;
use proxy_common::{Addr, Counter, Endpoint, LO, Listener};

use super::serving::daemon_is_up;
use crate::maps;

const AF_INET: u32 = 2;

/// What an accepted or refused connection is counted as; none: it is no service's. Which worker's it
/// becomes, the kernel's SO_REUSEPORT hash decides: it is the same for a SYN cookie's ACK as it was for
/// the SYN.
#[inline(always)]
pub fn dispatch(ctx: &SkLookupContext) -> Result<Option<Counter>, Option<Counter>> {
    // SAFETY: the kernel hands every program a valid context.
    let lookup: &bpf_sk_lookup = unsafe { &*ctx.lookup };
    let (local, remote) = addresses(lookup);
    let port = lookup.local_port as u16;
    let at = Endpoint::new(local, port);
    if lookup.protocol != IpProto::Tcp as u32 {
        if maps::is_steer(&local) && is_clients(lookup, &at, &remote) {
            // Without it, one that hears the steer address by itself is found.
            maps::assign_datagram_app(ctx, &at);
        }
        return Ok(None);
    }
    if maps::is_steer(&local) {
        let is_known = is_clients(lookup, &at, &remote)
            && (maps::assign_app(ctx, at) || maps::is_unmapped(&at));
        return if is_known { Ok(None) } else { Err(None) };
    }
    if !maps::is_served(port) {
        return Ok(None);
    }
    let Some(listener) = maps::listener_at(&at) else {
        return Ok(None);
    };
    let service = listener.service();
    let is_apps_too = listener.has(Listener::OUTSIDERS_APP);
    // A program asks for the listener at a target, with a port that nobody connects from: a spoofed
    // connection must not come to a service, this instance's or another's.
    if lookup.remote_port == 0 {
        return if is_apps_too { Ok(None) } else { Err(None) };
    }
    // From this host itself come the daemon's own connections, to the application.
    let is_apps = is_apps_too && maps::is_own(&remote);
    if is_apps || !maps::allows(service, &remote) {
        if is_apps_too {
            return Ok(Some(Counter::DispatchOutsider));
        }
        log_refusal(ctx, service, &remote);
        return Err(Some(Counter::DispatchRefused));
    }
    if !daemon_is_up() {
        return Err(Some(Counter::DaemonDown));
    }
    // By a device, a SYN has been asked for it already, and what goes on to the daemon may have come before.
    if lookup.ingress_ifindex == LO && listener.has(Listener::DRAINED) {
        return Err(Some(Counter::Drained));
    }
    if maps::assign(ctx, listener) {
        Ok(Some(Counter::DispatchAccepted))
    } else {
        Err(Some(Counter::DispatchNoListener))
    }
}

/// Whether a packet to a steer address is a client's. By the network, nobody may reach an application that is
/// bound to 127.0.0.1. Nor may anybody on this host, whose addresses no client has.
#[inline(always)]
fn is_clients(lookup: &bpf_sk_lookup, at: &Endpoint, client: &Addr) -> bool {
    let by = lookup.ingress_ifindex;
    // `deliver` lets nobody from outside come this far by a device where an application hears alone.
    let is_inside = by == LO || by == maps::device() || maps::bound_to(at) == Some(by);
    let is_own = client.is_martian() || maps::is_steer(client) || maps::is_own(client);
    is_inside && !is_own
}

/// The local and the remote address. Fields of the other family
/// read as zero, so both families are read without a branch: with one, the compiler merges the
/// loads of its two sides, and the verifier refuses what comes of it:
///
/// ```text
/// 35: (0f) r7 += r3                     ; R3=16 R7=ctx(off=16)
/// 36: (61) r3 = *(u32 *)(r7 +0)
/// dereference of modified ctx ptr R7 off=16 disallowed
/// ```
#[inline(always)]
fn addresses(lookup: &bpf_sk_lookup) -> (Addr, Addr) {
    let mapped = match lookup.family {
        AF_INET => Addr::V4_MAPPED,
        _ => 0,
    };
    let addr = |[a, b, c, d]: [u32; 4], v4| Addr::from_v6([a, b, c | mapped, d | v4]);
    let local = addr(lookup.local_ip6, lookup.local_ip4);
    (local, addr(lookup.remote_ip6, lookup.remote_ip4))
}

/// One line a second and CPU, however many are refused.
#[inline(always)]
fn log_refusal(ctx: &SkLookupContext, service: u32, balancer: &Addr) {
    if !maps::may_log() {
        return;
    }
    match balancer.v4() {
        Some(v4) => warn!(
            ctx,
            "refused {:i}: not in the allowlist of service {}",
            u32::from_be(v4),
            service
        ),
        None => {
            let [a, b, c, d] = balancer.words().map(u32::to_ne_bytes);
            let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = [a, b, c, d];
            let octets = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p];
            warn!(
                ctx,
                "refused {:i}: not in the allowlist of service {}", octets, service
            );
        }
    }
}
