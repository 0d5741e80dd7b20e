//! Direct connections: flows, SYNs that wait for their header, and what every program may use as
//! room to work in.

use core::{ffi::c_void, ptr::from_mut};

use aya_ebpf::{
    bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST, BPF_RB_NO_WAKEUP},
    helpers::bpf_for_each_map_elem,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use proxy_common::{
    Addr, Endpoint, Host, Life,
    claim::Claim,
    cookie::spent,
    datagram,
    first::Speaker,
    flow::{Down, Kept, MAX_FLOWS, MAX_PIECES, Pending, Piece, Pieces, Rewrite, Told, Tuple, Up},
    given, header,
    shares::Place,
};

use super::{load_word, store_word};
use crate::{
    clock,
    wire::{
        cut,
        options::{Header, Options},
        proxy,
        segment::Segment,
    },
};

#[map(name = "flows_up")]
static FLOWS_UP: HashMap<Tuple, Up> = HashMap::with_max_entries(MAX_FLOWS, BPF_F_NO_PREALLOC);
#[map(name = "flows_down")]
static FLOWS_DOWN: HashMap<Tuple, Down> = HashMap::with_max_entries(MAX_FLOWS, BPF_F_NO_PREALLOC);
/// Headers with TLVs, by the application's packets.
#[map(name = "headers")]
static HEADERS: HashMap<Tuple, Kept> = HashMap::with_max_entries(MAX_FLOWS, BPF_F_NO_PREALLOC);
#[map(name = "pending")]
static PENDING: HashMap<Tuple, Pending> =
    HashMap::with_max_entries(Pending::MAX, BPF_F_NO_PREALLOC);
/// How many entries of the pending table each balancer has.
#[map(name = "shares")]
static SHARES: HashMap<Addr, u64> = HashMap::with_max_entries(Pending::MAX, BPF_F_NO_PREALLOC);
/// Packets that come in pieces; the oldest go.
#[map(name = "pieces")]
static PIECES: LruHashMap<Piece, Pieces> = LruHashMap::with_max_entries(MAX_PIECES, 0);
/// Balancers whose first segments come in fragments, and since when; the oldest go.
#[map(name = "fragmented")]
static FRAGMENTED: LruHashMap<Addr, u32> = LruHashMap::with_max_entries(MAX_FRAGMENTED, 0);
#[map(name = "host")]
static HOST: Array<Host> = Array::with_max_entries(1, 0);
#[map(name = "life")]
static LIFE: Array<u64> = Array::with_max_entries(Life::LEN, 0);
/// When a connection of each tuple was last seen to be the daemon's, in seconds of the flows' clock.
/// Tuples share their places.
#[map(name = "given")]
static GIVEN: Array<u32> = Array::with_max_entries(given::LEN, 0);
/// By the bits of a cookie, the numbers of the last connection there.
#[map(name = "spent")]
static SPENT: Array<u64> = Array::with_max_entries(spent::LEN, 0);
#[map(name = "told")]
static TOLD: RingBuf = RingBuf::with_byte_size(TOLD_BYTES, 0);
#[map(name = "scratch")]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
#[map(name = "body")]
static BODY: PerCpuArray<[u8; cut::BODY]> = PerCpuArray::with_max_entries(1, 0);

/// Room for some 7000 connections that the daemon hasn't heard of.
const TOLD_BYTES: u32 = 1 << 20;

/// What doesn't fit on a program's stack of 512 bytes. Each CPU has its own, and a program isn't
/// preempted by another one on the same CPU.
#[repr(C)]
pub struct Scratch {
    pub segment: Segment,
    pub options: Options,
    /// A TCP header.
    pub header: Header,
    /// The one that it becomes.
    pub answer: Header,
    /// The beginning of a payload, or a header.
    pub line: Kept,
    /// Zeroes, so that reading a few bytes behind its end needs no check.
    pub behind: [u32; 4],
    pub v1: header::v1::Line,
    pub tlvs: proxy::Tlvs,
    /// The header at the beginning of a payload.
    pub proxy: proxy::Header,
    /// What cutting it out does to a checksum.
    pub removed: u32,
    /// The entries of a new flow, and the tuple of its application's packets.
    pub up: Up,
    pub down: Down,
    pub app: Tuple,
    /// Whom it counts for.
    pub claim: Claim,
    /// Where a datagram's client has sent to, as its header says.
    pub stated: Endpoint,
    pub datagram_flow: datagram::Flow,
    /// The balancer's socket, where it speaks for somebody from its first datagram on; and for whom, if that takes a
    /// longer way and may be yet to come.
    pub speaker: Speaker,
    pub named: Endpoint,
    pub is_named: bool,
    pub place: Place,
    /// Leads to a datagram's application, where that is beyond this host.
    pub device: u32,
    /// Whether it may go on from the device that it came by.
    pub in_place: bool,
    /// Whether its headers were moved to where the payload is, and not the payload to where they are.
    pub is_closed_up: bool,
    /// The place of a datagram's application among the sockets of all.
    pub app_at: u32,
    /// When a datagram came in, in the seconds of the flows' clock, and their stamp.
    pub now: u32,
    pub stamp: u32,
    /// Other addresses and ports for a datagram, and whether they are of the other version of IP.
    pub rewrite: Rewrite,
    pub is_of_other: bool,
}

#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: this CPU's own, and nobody else has it while the program runs.
    SCRATCH
        .get_ptr_mut(0)
        .map(|scratch| unsafe { &mut *scratch })
}

/// Where a payload passes through.
#[inline(always)]
pub fn body() -> Option<*mut u8> {
    BODY.get_ptr_mut(0).map(<*mut _>::cast)
}

#[inline(always)]
pub fn find_up(tuple: &Tuple) -> Option<*mut Up> {
    FLOWS_UP.get_ptr_mut(tuple)
}

/// The application's socket is there.
#[inline(always)]
pub fn confirm(tuple: &Tuple) {
    if let Some(up) = find_up(tuple) {
        // SAFETY: one word that only ever becomes this.
        unsafe { (&raw mut (*up).confirmed).write_volatile(1) };
    }
}

#[inline(always)]
pub fn find_down(tuple: &Tuple) -> Option<*mut Down> {
    FLOWS_DOWN.get_ptr_mut(tuple)
}

/// False if there is one already, or no room.
#[inline(always)]
pub fn insert_up(tuple: &Tuple, up: &Up) -> bool {
    FLOWS_UP.insert(tuple, up, BPF_NOEXIST.into()).is_ok()
}

#[inline(always)]
pub fn insert_down(tuple: &Tuple, down: &Down) -> bool {
    FLOWS_DOWN.insert(tuple, down, BPF_NOEXIST.into()).is_ok()
}

#[inline(always)]
pub fn forget_up(tuple: &Tuple) {
    let _ = FLOWS_UP.remove(tuple);
}

/// For people to read: the connection goes on without.
#[inline(always)]
pub fn keep_header(down: &Tuple, header: &Kept) {
    let _ = HEADERS.insert(down, header, 0);
}

/// Removes a flow by the tuples of both directions, and its header if that is kept.
#[inline(always)]
pub fn forget_tuples(up: &Tuple, down: &Tuple, is_kept: bool) {
    // Another CPU may have done so already.
    let _ = FLOWS_UP.remove(up);
    let _ = FLOWS_DOWN.remove(down);
    if is_kept {
        let _ = HEADERS.remove(down);
    }
}

#[inline(always)]
pub fn life(of: Life) -> u64 {
    load_word(LIFE.get_ptr(of as u32))
}

#[inline(always)]
pub fn set_life(of: Life, value: u64) {
    store_word(LIFE.get_ptr_mut(of as u32), value);
}

/// Whether there may be one more connection.
#[inline(always)]
pub fn has_room(host: &Host) -> bool {
    Life::open(life) + life(Life::Daemon) < host.most.into()
}

/// One more connection has been made.
#[inline(always)]
pub fn count_made() {
    add(LIFE.get_ptr_mut(Life::Made as u32), 1);
}

/// This target's compiler has no atomic addition: now and then one of two that meet is lost. The sweep
/// counts anew, so that what is wrong is so for half a second.
#[inline(always)]
fn add(to: Option<*mut u64>, count: u64) {
    let now = load_word(to.map(<*mut u64>::cast_const));
    store_word(to, now.wrapping_add(count));
}

const MAX_FRAGMENTED: u32 = 1024;

/// This balancer's path cuts long packets.
#[inline(never)]
pub fn note_fragments(balancer: &Addr) {
    // Whatever comes of it: its next one is noted.
    let _ = FRAGMENTED.insert(balancer, clock::seconds(), 0);
    set_life(Life::Fragments, 1);
}

/// Whether it did, not long ago.
#[inline(never)]
pub fn is_fragmented(balancer: &Addr) -> bool {
    const HOUR: u32 = 3600;
    // Most hosts never see any: that is one word.
    if life(Life::Fragments) == 0 {
        return false;
    }
    let since = load_word(FRAGMENTED.get_ptr(balancer));
    since != 0 && clock::seconds().wrapping_sub(since) < HOUR
}

/// This connection is the daemon's.
#[inline(never)]
pub fn note_given(tuple: &Tuple) {
    store_word(GIVEN.get_ptr_mut(given::place(tuple)), clock::seconds());
}

/// Whether the daemon's end of such a connection may still be there.
#[inline(always)]
pub fn was_given(tuple: &Tuple) -> bool {
    let last = load_word(GIVEN.get_ptr(given::place(tuple)));
    let now = clock::seconds();
    let is_recent = |at: u32| at != 0 && now.wrapping_sub(at) < given::MEMORY;
    is_recent(last) || is_recent(life(Life::Found) as u32)
}

/// A connection whose first bytes have these numbers has been made.
#[inline(always)]
pub fn spend(ours: u32, theirs: u32) {
    store_word(
        SPENT.get_ptr_mut(spent::place(ours)),
        spent::word(ours, theirs),
    );
}

#[inline(always)]
pub fn is_spent(ours: u32, theirs: u32) -> bool {
    load_word(SPENT.get_ptr(spent::place(ours))) == spent::word(ours, theirs)
}

#[inline(always)]
pub fn host() -> Option<&'static Host> {
    HOST.get(0)
}

#[inline(always)]
pub fn pending(tuple: &Tuple) -> Option<Pending> {
    // SAFETY: nothing writes one in place; a replaced value is a new element.
    unsafe { PENDING.get(tuple) }.copied()
}

/// False if the table is full, or the balancer's share of it.
#[inline(always)]
pub fn insert_pending(tuple: &Tuple, pending: &Pending, is_new: bool) -> bool {
    let [balancer, _] = tuple.addresses();
    if !is_new {
        return PENDING.insert(tuple, pending, 0).is_ok();
    }
    // Whoever comes first makes the entry; the other one finds it there.
    if SHARES.get_ptr(balancer).is_none() {
        let _ = SHARES.insert(balancer, 0, BPF_NOEXIST.into());
    }
    let Some(share) = SHARES.get_ptr_mut(balancer) else {
        return false;
    };
    if load_word(Some(share.cast_const())) >= Pending::SHARE.into() {
        return false;
    }
    if PENDING.insert(tuple, pending, BPF_NOEXIST.into()).is_err() {
        return false;
    }
    add(Some(share), 1);
    true
}

#[inline(always)]
pub fn forget_pending(tuple: &Tuple) {
    let [balancer, _] = tuple.addresses();
    if PENDING.remove(tuple).is_ok() {
        add(SHARES.get_ptr_mut(balancer), u64::MAX);
    }
}

#[inline(always)]
pub fn remember_pieces(piece: &Piece, pieces: &Pieces) {
    // Without it the others are lost, and the segment comes again.
    let _ = PIECES.insert(piece, pieces, 0);
}

#[inline(always)]
pub fn pieces(piece: &Piece) -> Option<Pieces> {
    // SAFETY: nothing writes one in place. Should it have become another's, the pieces don't fit
    // together, and the segment comes again.
    unsafe { PIECES.get(piece) }.copied()
}

/// Tells the daemon; false if it has to be told again. It is written right where the daemon reads it: on
/// the way it would take a quarter of a program's stack.
#[inline(never)]
pub fn tell(tuple: &Tuple, flow: &Down, what: u32) -> bool {
    let Some(mut told) = TOLD.reserve::<Told>(0) else {
        return false;
    };
    told.write(Told {
        tuple: *tuple,
        what,
        down: *flow,
    });
    told.submit(BPF_RB_NO_WAKEUP.into());
    true
}

/// What [`for_each_down`] and its like call with the map, a key, its value, and something of the
/// caller's.
type Each<K, V, T> = unsafe extern "C" fn(*mut c_void, *const K, *mut V, *mut T) -> i64;

#[inline(always)]
pub fn for_each_down<T>(each: Each<Tuple, Down, T>, with: &mut T) {
    for_each(&FLOWS_DOWN, each, with);
}

#[inline(always)]
pub fn for_each_pending<T>(each: Each<Tuple, Pending, T>, with: &mut T) {
    for_each(&PENDING, each, with);
}

#[inline(always)]
pub fn for_each_share<T>(each: Each<Addr, u64, T>, with: &mut T) {
    for_each(&SHARES, each, with);
}

#[inline(always)]
pub(super) fn for_each<K, V, T>(map: &HashMap<K, V>, each: Each<K, V, T>, with: &mut T) {
    let map = core::ptr::from_ref(map).cast_mut().cast();
    // SAFETY: the verifier goes through `each` with the types of this map and of `with`.
    unsafe { bpf_for_each_map_elem(map, each as *mut c_void, from_mut(with).cast(), 0) };
}

/// One more of this balancer's, whose share was set to nothing before.
#[inline(always)]
pub fn count_share(balancer: &Addr) {
    add(SHARES.get_ptr_mut(balancer), 1);
}

#[inline(always)]
pub fn forget_share(balancer: &Addr) {
    let _ = SHARES.remove(balancer);
}
