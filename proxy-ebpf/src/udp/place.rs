//! A new flow's place in the table, which may be an idle one's.

use aya_ebpf::programs::TcContext;
use proxy_common::{
    Counter,
    datagram::Flow,
    limits::{Limits, Party, TallyKey},
    shares::{Holder, Links, Place, Placed, Placing, Ring, RingSizes, Share, Wanted},
};

use super::limits;
use crate::{
    clock, ctx,
    maps::{self, Lock},
};

/// Puts a flow into the table.
#[inline(never)]
pub fn place(flow: &mut Flow, place: &mut Place) -> Placed {
    if !maps::lock(Lock::Datagrams) {
        return Placed::Failed;
    }
    let placed = placed(flow, place);
    maps::unlock(Lock::Datagrams);
    match placed {
        Ok(()) => {
            maps::count(Counter::DatagramOpened);
            Placed::InTable
        }
        Err(why) => why,
    }
}

/// The flow that is in the scratch.
///
/// A function that the verifier goes through once, and not from wherever it is called.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn place_in_scratch() -> Placed {
    match maps::scratch() {
        Some(scratch) => place(&mut scratch.datagram_flow, &mut scratch.place),
        None => Placed::Failed,
    }
}

/// What the daemon wants of one of its flows. It is changed where it lies: programs may do so at the same time, with
/// other words of it.
#[inline(always)]
pub fn place_daemons(ctx: &TcContext) {
    const NOTE: u32 = Wanted::Note as u32;
    const REPLY: u32 = Wanted::Reply as u32;
    const COUNT: u32 = Wanted::Count as u32;
    let Some(placing) = maps::placing() else {
        return;
    };
    if ctx::load_all(ctx, placing).is_err() {
        return;
    }
    let now = clock::seconds();
    let known = maps::find_datagram_flow(&placing.place.reply);
    // SAFETY: as in `known`.
    let known = known.map(|flow| unsafe { &mut *flow });
    let placed = match placing.wanted {
        NOTE => note(placing, known, now),
        REPLY => reply(placing, known, now),
        COUNT => limits::count(&mut placing.place),
        _ => deny(known),
    };
    placing.placed = placed as u32;
    // Without an answer, it says that it has failed.
    let _ = ctx::store_all(ctx, placing);
}

#[inline(always)]
fn note(placing: &mut Placing, known: Option<&mut Flow>, now: u32) -> Placed {
    let new = &mut placing.flow;
    if let Some(known) = known {
        let is_same = known.back == new.back && !known.is_over(now);
        let is_of_other =
            known.is_of_other(new.back.addresses()[1], new.way_back.link(), new.service);
        if is_of_other && !is_same && known.is_spoken_for(now) {
            return Placed::Taken;
        }
        if is_same {
            // Another service may have this address by now.
            known.service = new.service;
            known.count_up(new.up.bytes, new.flags, now);
            if new.way_back.is_of_link() {
                known.way_back = new.way_back;
            }
            if known.stated != new.stated {
                // Replies may be reading it.
                let stated = new.stated;
                *new = *known;
                new.stated = stated;
                maps::replace_datagram_flow(&placing.place.reply, new);
            }
            return Placed::InTable;
        }
    }
    let placed = place(&mut placing.flow, &mut placing.place);
    if let Some(why) = limits::refusal(placed) {
        // It is dropped there.
        maps::count(why);
    }
    placed
}

#[inline(always)]
fn reply(placing: &mut Placing, known: Option<&mut Flow>, now: u32) -> Placed {
    match known {
        Some(known) if !known.is_over(now) && !known.is_denied() => {
            known.count_down(placing.flow.down.bytes, now);
            placing.flow = *known;
            Placed::InTable
        }
        _ => Placed::Gone,
    }
}

#[inline(always)]
fn deny(known: Option<&mut Flow>) -> Placed {
    match known {
        Some(known) => {
            known.flags |= Flow::DENIED;
            Placed::InTable
        }
        None => Placed::Gone,
    }
}

#[inline(always)]
fn placed(flow: &mut Flow, place: &mut Place) -> Result<(), Placed> {
    let balancer = flow.back.addresses()[1];
    place.holder = Holder::balancer(flow.service, *balancer);
    place.balancer = TallyKey::datagrams(flow.service, Party::Balancer, *balancer);
    place.client = limits::client_of(flow.service, &place.reply);
    // What a balancer says for itself is no client's.
    let limited = match flow.flags & Flow::LOCAL {
        0 => maps::limits(flow.service),
        _ => None,
    };
    if let Some(known) = maps::find_datagram_flow(&place.reply) {
        // SAFETY: who has the lock is alone with this.
        let (slot, is_over) = unsafe { ((*known).slot, (*known).is_over(flow.last)) };
        if holds(place, slot) {
            flow.slot = slot;
            if let Some(limited) = limited.filter(|_| is_over) {
                limits::begin_again(place, limited, slot)?;
            }
            return insert(place, flow);
        }
        if let Some(limited) = limited {
            // Before it goes.
            limits::are_slow(place, limited)?;
        }
        // It may be another's by now.
        match maps::has_slot(&place.reply, slot) {
            true => release(place, slot),
            false => maps::forget_datagram_flow(&place.reply),
        }
    }
    join(flow, place, limited)
}

/// Puts a flow into a slot, and its rings.
#[inline(always)]
fn join(flow: &mut Flow, place: &mut Place, limited: Option<&Limits>) -> Result<(), Placed> {
    if let Some(limited) = limited {
        limits::are_slow(place, limited)?;
        limits::make_room(place, limited)?;
    }
    make_share(place).ok_or(Placed::Failed)?;
    let room = make_room(place);
    let slot = if room.is_ok() { free_slot() } else { 0 };
    if slot == 0 {
        forget_if_empty(&place.holder);
        return Err(room.err().unwrap_or(Placed::Full));
    }
    link(place, slot).ok_or(Placed::Failed)?;
    flow.slot = slot;
    insert(place, flow).inspect_err(|_| release(place, slot))?;
    if let Some(limited) = limited {
        limits::enter_clients(place, limited, slot);
        limits::take_tokens(place, limited);
    }
    Ok(())
}

/// Whether the flow has this slot, in the right rings.
#[inline(always)]
fn holds(place: &Place, slot: u32) -> bool {
    maps::slot(slot).is_some_and(|slot| slot.reply == place.reply && slot.holder == place.holder)
}

#[inline(always)]
fn insert(place: &Place, flow: &Flow) -> Result<(), Placed> {
    if maps::insert_datagram_flow(&place.reply, flow) {
        Ok(())
    } else {
        Err(Placed::Failed)
    }
}

/// Has the service and the balancer have shares. The surplus' is there from the service's first flow on, when
/// there is room for it.
#[inline(always)]
fn make_share(place: &mut Place) -> Option<()> {
    if maps::share(&place.holder.service()).is_none() {
        let are_made = maps::insert_share(&place.holder.service())
            && maps::insert_share(&place.holder.surplus());
        if !are_made {
            return None;
        }
    }
    if maps::share(&place.holder).is_none() && !maps::insert_share(&place.holder) {
        place.holder = place.holder.surplus();
    }
    Some(())
}

/// Where the balancer has as many as it may, or the service, the one goes that has been idle for longest of
/// those looked at.
#[inline(always)]
fn make_room(place: &mut Place) -> Result<(), Placed> {
    let of_balancer = maps::share(&place.holder).ok_or(Placed::Failed)?;
    let of_service = maps::share(&place.holder.service()).ok_or(Placed::Failed)?;
    let victim = if of_balancer.count >= place.sizes.balancer {
        oldest_idle(Ring::Balancer, of_balancer)
    } else if of_service.count >= place.sizes.service {
        oldest_idle(Ring::Service, of_service)
    } else {
        return Ok(());
    };
    if victim == 0 {
        return Err(Placed::Full);
    }
    release(place, victim);
    Ok(())
}

/// Its slot, or 0. The hand passes by busy ones.
#[inline(never)]
pub fn oldest_idle(ring: Ring, share: &mut Share) -> u32 {
    let now = clock::seconds();
    let mut at = share.hand;
    let (mut oldest, mut last, mut first) = (0, u32::MAX, 0);
    for _ in 0..RingSizes::LOOKED_AT {
        let Some(slot) = maps::slot(at) else {
            return 0;
        };
        let Some(flow) = maps::find_datagram_flow(&slot.reply) else {
            return at;
        };
        // SAFETY: times of one word each, which become later ones.
        let flow = unsafe { &*flow };
        if flow.is_over(now) {
            return at;
        }
        if !flow.is_busy(now) {
            if first == 0 {
                first = at;
            }
            if flow.last < last {
                (oldest, last) = (at, flow.last);
            }
        }
        at = slot.links(ring).next;
        if at == share.hand {
            break;
        }
    }
    share.hand = if first == 0 { at } else { first };
    if oldest != 0 {
        maps::count(Counter::DatagramEvicted);
    }
    oldest
}

/// Forgets the flow that has it, and leaves it free.
#[inline(never)]
pub fn release(place: &mut Place, index: u32) {
    let Some(slot) = maps::slot(index) else {
        return;
    };
    place.other = slot.reply;
    place.others = slot.holder;
    // Whatever comes of it: it may be gone.
    maps::forget_datagram_flow(&place.other);
    unlink(Ring::Service, maps::share(&place.others.service()), index);
    unlink(Ring::Balancer, maps::share(&place.others), index);
    if slot.in_client.next != 0 {
        place.others_client = limits::client_of(place.others.service_id(), &place.other);
        let tally = maps::tally(&place.others_client);
        unlink(Ring::Client, tally.map(|tally| &mut tally.share), index);
        slot.in_client = Links::default();
    }
    if place.others != place.holder {
        forget_if_empty(&place.others);
    }
    if let Some(free) = maps::slot(0) {
        slot.in_service.next = free.in_service.next;
        free.in_service.next = index;
    }
}

#[inline(always)]
fn forget_if_empty(holder: &Holder) {
    let is_empty = maps::share(holder).is_some_and(|share| share.count == 0);
    if is_empty && *holder != holder.surplus() {
        maps::forget_share_of(holder);
    }
}

/// One that no flow has, or 0.
#[inline(always)]
fn free_slot() -> u32 {
    let Some(free) = maps::slot(0) else {
        return 0;
    };
    let first = free.in_service.next;
    if let Some(slot) = maps::slot(first)
        && first != 0
    {
        free.in_service.next = slot.in_service.next;
        return first;
    }
    if free.in_balancer.next >= RingSizes::MOST.service {
        return 0;
    }
    free.in_balancer.next += 1;
    free.in_balancer.next
}

/// Puts a slot into its rings.
#[inline(never)]
fn link(place: &Place, index: u32) -> Option<()> {
    let slot = maps::slot(index)?;
    slot.reply = place.reply;
    slot.holder = place.holder;
    slot.in_client = Links::default();
    enter(Ring::Service, maps::share(&place.holder.service()), index)?;
    enter(Ring::Balancer, maps::share(&place.holder), index)
}

/// Into a ring right before its hand, which gets there last.
#[inline(always)]
pub fn enter(ring: Ring, share: Option<&mut Share>, index: u32) -> Option<()> {
    let share = share?;
    if share.hand == 0 {
        share.hand = index;
        *maps::slot(index)?.links(ring) = Links {
            before: index,
            next: index,
        };
    } else {
        let hand = maps::slot(share.hand)?.links(ring);
        *maps::slot(index)?.links(ring) = Links {
            before: hand.before,
            next: share.hand,
        };
        maps::slot(hand.before)?.links(ring).next = index;
        hand.before = index;
    }
    share.count += 1;
    Some(())
}

#[inline(always)]
fn unlink(ring: Ring, share: Option<&mut Share>, index: u32) {
    let (Some(share), Some(slot)) = (share, maps::slot(index)) else {
        return;
    };
    let Links { before, next } = *slot.links(ring);
    share.count = share.count.saturating_sub(1);
    if next == index {
        share.hand = 0;
        return;
    }
    if let Some(slot) = maps::slot(before) {
        slot.links(ring).next = next;
    }
    if let Some(slot) = maps::slot(next) {
        slot.links(ring).before = before;
    }
    if share.hand == index {
        share.hand = next;
    }
}
