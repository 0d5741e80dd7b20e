//! Who receives datagrams, and the flows that their replies take back.

use core::ptr::from_ref;

use aya_ebpf::{
    bindings::{BPF_EXIST, BPF_NOEXIST, bpf_sock},
    helpers::{bpf_map_lookup_elem, bpf_sk_assign, bpf_sk_release},
    macros::map,
    maps::{HashMap, LruHashMap, PerCpuArray, SockMap},
    programs::{SkLookupContext, TcContext},
};
use proxy_common::{
    Addr, Endpoint, Life, MAX_LISTENERS, MAX_TARGETS,
    datagram::{
        Aim, Flow, MAX_DATAGRAM_FLOWS, MAX_DATAGRAM_PIECES, MAX_REVERSE_PATHS, Receiver,
        ReversePath,
    },
    datagram_port_bit, exclusive_port_bit,
    first::{First, Speaker},
    flow::{Piece, Tuple},
};

use super::{Scratch, admit::has_port, life, load_word, spoken::note_spoken, steer::insert_socket};
use crate::clock;

#[map(name = "receivers")]
static RECEIVERS: HashMap<Endpoint, Receiver> = HashMap::with_max_entries(MAX_LISTENERS, 0);
/// By the application's replies. Each has a slot, and who makes one takes the lock for that.
#[map(name = "datagram_flows")]
static FLOWS: HashMap<Tuple, Flow> = HashMap::with_max_entries(MAX_DATAGRAM_FLOWS, 0);
/// The oldest idle ones go.
#[map(name = "firsts")]
static FIRSTS: LruHashMap<Speaker, First> = LruHashMap::with_max_entries(MAX_DATAGRAM_FLOWS, 0);
/// Where datagrams for an application are sent to, by where that is: its address or none, and its port.
#[map(name = "aims")]
static AIMS: HashMap<Endpoint, Aim> = HashMap::with_max_entries(4 * MAX_TARGETS, 0);
/// The socket of an application that doesn't hear its steer address by itself, at the place that its [`Aim`] says. The
/// kernel takes it out when it closes.
#[map(name = "datagram_apps")]
static APPS: SockMap = SockMap::with_max_entries(MAX_TARGETS, 0);
/// When an application was last found to hear its steer address by itself.
#[map(name = "hearing")]
static HEARING: HashMap<Endpoint, u32> = HashMap::with_max_entries(MAX_TARGETS, 0);
/// What becomes of an application's pieces, of which the first one has told, and since when; the oldest go.
#[map(name = "reply_pieces")]
static PIECES: LruHashMap<Piece, u32> = LruHashMap::with_max_entries(MAX_DATAGRAM_PIECES, 0);
/// What the daemon has found out of balancers that come by another device than the way back's.
#[map(name = "reverse_paths")]
static REVERSE_PATHS: LruHashMap<ReversePath, u32> =
    LruHashMap::with_max_entries(MAX_REVERSE_PATHS, 0);
/// The daemon's sockets for replies that it is to send on, of IPv4 and of IPv6.
#[map(name = "catchers")]
static CATCHERS: SockMap = SockMap::with_max_entries(2, 0);

/// What admitted datagrams lately. Those of several balancers, or for several addresses, share places.
#[map(name = "admitted")]
static ADMITTED: PerCpuArray<Admitted> = PerCpuArray::with_max_entries(Admitted::PLACES, 0);

/// Errors passed on in a second, and which one that is.
#[map(name = "errors_told")]
static ERRORS: PerCpuArray<[u32; 2]> = PerCpuArray::with_max_entries(1, 0);

/// A service, and a balancer that may send to it there.
#[repr(C)]
pub struct Admitted {
    balancer: Addr,
    at: Endpoint,
    since: u32,
    stamp: u32,
    /// Its application's place.
    pub app: u32,
    pub receiver: Receiver,
}

impl Admitted {
    const BITS: u32 = 5;
    const PLACES: u32 = 1 << Self::BITS;

    #[inline(always)]
    fn place(datagram: &Tuple) -> Option<*mut Self> {
        /// Spreads addresses that differ in few bits (the golden ratio's).
        const SPREAD: u32 = 0x9e37_79b9;
        let [balancer, at] = datagram.addresses().map(|addr| addr.words());
        let [_, port] = datagram.ports();
        let mixed = balancer[0] ^ balancer[1] ^ balancer[3] ^ at[3].rotate_left(16);
        let mixed = (mixed ^ u32::from(port)).wrapping_mul(SPREAD);
        ADMITTED.get_ptr_mut(mixed >> (u32::BITS - Self::BITS))
    }
}

/// Of a datagram whose balancer was found to be allowed there, since the last change of a list.
#[inline(always)]
pub fn admitted(datagram: &Tuple, [now, stamp]: [u32; 2]) -> Option<&'static Admitted> {
    let known = Admitted::place(datagram)?;
    // SAFETY: this CPU's own, and no program changes it while another one runs there.
    let known = unsafe { &*known };
    let is_same = known.stamp == stamp
        && known.since == now
        && known.balancer == *datagram.addresses()[0]
        && known.at == datagram.destination();
    is_same.then_some(known)
}

#[inline(always)]
pub fn note_admitted(datagram: &Tuple, [now, stamp]: [u32; 2], receiver: &Receiver) {
    if let Some(place) = Admitted::place(datagram) {
        let target = receiver.target(datagram.addresses()[1]);
        let known = Admitted {
            balancer: *datagram.addresses()[0],
            at: datagram.destination(),
            since: now,
            stamp,
            app: aim(&target.steer).map_or(0, |aim| aim.app()),
            receiver: *receiver,
        };
        // SAFETY: as above.
        unsafe { place.write(known) };
    }
}

/// Whether a service receives datagrams at this port.
#[inline(always)]
pub fn is_receiving(port: u16) -> bool {
    has_port(datagram_port_bit(port))
}

/// Whether an error may be passed on still: so many a second from each CPU, as the kernel makes no more of its own. What
/// is beyond this host makes as many as it likes.
#[inline(always)]
pub fn may_tell_error(now: u32) -> bool {
    const MOST: u32 = 1000;
    ERRORS.get_ptr_mut(0).is_some_and(|told| {
        // SAFETY: this CPU's own.
        let [since, count] = unsafe { &mut *told };
        if *since != now {
            [*since, *count] = [now, 0];
        }
        *count += 1;
        *count <= MOST
    })
}

/// Who receives at an address of this namespace: right there, or at the wildcard of its family.
#[inline(always)]
pub fn receiver_at(local: &Endpoint) -> Option<&'static Receiver> {
    // SAFETY: nothing writes a receiver in place; a replaced value is a new element.
    super::admit::at_or_any(local, |at| unsafe { RECEIVERS.get(at) })
}

/// Whether this host serves UDP at all.
#[inline(always)]
pub fn any_is_receiving() -> bool {
    life(Life::Datagrams) != 0
}

/// Whether any of their applications may be beyond this host.
#[inline(always)]
pub fn any_is_beyond() -> bool {
    life(Life::Datagrams) > 1
}

#[inline(always)]
pub fn find_datagram_flow(reply: &Tuple) -> Option<*mut Flow> {
    FLOWS.get_ptr_mut(reply)
}

/// In the place of another one, if there is one.
#[inline(always)]
pub fn insert_datagram_flow(reply: &Tuple, flow: &Flow) -> bool {
    FLOWS.insert(reply, flow, 0).is_ok()
}

/// In the place of the one that is there. Whatever comes of it: it may be gone.
#[inline(always)]
pub fn replace_datagram_flow(reply: &Tuple, flow: &Flow) {
    let _ = FLOWS.insert(reply, flow, BPF_EXIST.into());
}

#[inline(always)]
pub fn forget_datagram_flow(reply: &Tuple) {
    let _ = FLOWS.remove(reply);
}

/// What is known of `scratch.speaker`.
#[inline(always)]
pub fn find_first(scratch: &Scratch) -> Option<First> {
    let speaker = &scratch.speaker;
    // Another CPU may be putting a newer one in its place.
    for _ in 0..2 {
        let first = FIRSTS.get_ptr_mut(speaker)?;
        // SAFETY: it is copied whole, and told apart from another one's, which may have its place in memory at once.
        let copy = unsafe { *first };
        if FIRSTS.get_ptr_mut(speaker) == Some(first) {
            return Some(copy);
        }
    }
    None
}

/// Of `scratch.speaker`. Without it, the next datagram of this socket has to have a header as well.
#[inline(always)]
pub fn insert_first(scratch: &Scratch, first: &First, close_after: u32) {
    let speaker = &scratch.speaker;
    let _ = FIRSTS.insert(speaker, first, 0);
    note_spoken(first.last, close_after);
}

/// The same, if nothing is known of it yet but what is over.
#[inline(always)]
pub fn insert_first_of_none(scratch: &Scratch, first: &First, close_after: u32) {
    let speaker = &scratch.speaker;
    let flags = match find_first(scratch) {
        Some(_) => 0,
        None => BPF_NOEXIST,
    };
    if FIRSTS.insert(speaker, first, flags.into()).is_ok() {
        note_spoken(first.last, close_after);
    }
}

/// Whether a route to the balancer goes by this device, if the daemon has asked for it lately.
#[inline(always)]
pub fn leads(path: &ReversePath, now: u32) -> Option<bool> {
    ReversePath::judged(load_word(REVERSE_PATHS.get_ptr(path)), now)
}

/// Where datagrams go for the application that has this address, or any, and this port.
#[inline(always)]
pub fn aim(application: &Endpoint) -> Option<Aim> {
    // SAFETY: nothing writes one in place; a replaced value is a new element.
    unsafe { AIMS.get(application) }.copied()
}

/// Has `assign_datagram_app` find the socket; false when the kernel won't have it in a map.
#[inline(always)]
pub fn remember_datagram_app(app: u32, socket: *mut bpf_sock) -> bool {
    insert_socket(from_ref(&APPS).cast(), &app, socket)
}

/// Whether a datagram to there finds a socket: one that is remembered, or one that hears the address by itself
/// and did so a moment ago.
#[inline(always)]
pub fn finds_datagram_app(app: u32, steered: &Endpoint) -> bool {
    with_datagram_app(app, |_| ()).is_some() || is_hearing(steered)
}

/// Whether a socket was found a moment ago that hears the address by itself.
#[inline(always)]
pub fn is_hearing(steered: &Endpoint) -> bool {
    let since = load_word(HEARING.get_ptr(steered));
    since != 0 && since == clock::seconds()
}

/// Gives a datagram the socket that is remembered. None: there is no such socket; false: it can't have this one so.
#[inline(always)]
pub fn give_datagram_app(ctx: &TcContext, app: u32) -> Option<bool> {
    with_datagram_app(app, |socket| {
        // SAFETY: `socket` is the reference that the lookup just took.
        unsafe {
            (*socket).bound_dev_if == 0 && bpf_sk_assign(ctx.skb.skb.cast(), socket.cast(), 0) == 0
        }
    })
}

#[inline(always)]
fn with_datagram_app<R>(app: u32, f: impl FnOnce(*mut bpf_sock) -> R) -> Option<R> {
    let apps = (&raw const APPS).cast_mut().cast();
    // SAFETY: a map of sockets gives a reference to one, or none; this is its one release.
    unsafe {
        let socket = bpf_map_lookup_elem(apps, from_ref(&app).cast());
        if socket.is_null() {
            return None;
        }
        let result = f(socket.cast());
        bpf_sk_release(socket);
        Some(result)
    }
}

#[inline(always)]
pub fn note_hearing(steered: &Endpoint) {
    // Whatever comes of it, it is looked up the next time.
    let _ = HEARING.insert(steered, clock::seconds(), 0);
}

/// Hands a datagram to the application's socket; false when none is remembered.
#[inline(always)]
pub fn assign_datagram_app(ctx: &SkLookupContext, steered: &Endpoint) -> bool {
    aim(steered).is_some_and(|aim| APPS.redirect_sk_lookup(ctx, aim.app(), 0).is_ok())
}

/// Whether an application of UDP is at this address, with any port.
#[inline(always)]
pub fn is_target_address(addr: Addr) -> bool {
    any_is_receiving() && AIMS.get_ptr(Endpoint::new(addr, 0)).is_some()
}

/// Whether datagrams for an application go there.
#[inline(always)]
pub fn is_aim(at: &Endpoint) -> bool {
    aim(at).is_some_and(|aim| aim.at() == at)
}

/// Whether balancers' clients alone are answered from there.
#[inline(always)]
pub fn is_exclusive(at: &Endpoint) -> bool {
    has_port(exclusive_port_bit(at.port() as u16))
        // SAFETY: as above.
        && unsafe { AIMS.get(at) }.is_some_and(|aim| aim.is_exclusive() && aim.at() == at)
}

/// What an application has sent in pieces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// To a flow's client.
    Reply,
    /// To somebody who isn't to get it.
    Orphan,
}

#[inline(always)]
pub fn remember_sent(piece: &Piece, sent: Sent) {
    // Whatever comes of it: without it its other pieces are dropped, as nobody knows whose they are.
    let _ = PIECES.insert(piece, clock::seconds() << 1 | sent as u32, 0);
}

#[inline(always)]
pub fn sent_in_pieces(piece: &Piece) -> Option<Sent> {
    /// The numbers of pieces come again.
    const LIFE: u32 = 30;
    let known = load_word(PIECES.get_ptr(piece));
    if known == 0 || clock::seconds().wrapping_sub(known >> 1) >= LIFE {
        return None;
    }
    Some(match known & 1 {
        0 => Sent::Reply,
        _ => Sent::Orphan,
    })
}

/// Hands a reply to the daemon; false when it isn't there.
#[inline(always)]
pub fn assign_catcher(ctx: &SkLookupContext, is_v6: bool) -> bool {
    CATCHERS
        .redirect_sk_lookup(ctx, u32::from(is_v6), 0)
        .is_ok()
}
