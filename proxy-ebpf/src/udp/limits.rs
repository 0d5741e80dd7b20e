//! How many flows each client may have, and how fast he and his balancer may begin new ones. Who has the lock of
//! datagrams' slots is here alone.

use proxy_common::{
    Counter,
    datagram::Flow,
    flow::Tuple,
    limits::{Limits, Party, TallyKey},
    shares::{Place, Placed, Ring},
};

use super::place::{enter, oldest_idle, release};
use crate::{
    clock,
    maps::{self, Lock},
};

/// What a datagram of a flow that there is no place for is dropped as.
#[inline(always)]
pub const fn refusal(placed: Placed) -> Option<Counter> {
    match placed {
        Placed::Full => Some(Counter::DatagramFull),
        Placed::ClientFull => Some(Counter::DatagramClientFull),
        Placed::TooFast => Some(Counter::DatagramTooFast),
        Placed::InTable | Placed::Failed | Placed::Gone | Placed::Taken => None,
    }
}

/// Whose the flow of these replies is.
#[inline(always)]
pub const fn client_of(service: u32, reply: &Tuple) -> TallyKey {
    TallyKey::datagrams(service, Party::Client, *reply.addresses()[1])
}

#[inline(always)]
const fn key(place: &Place, party: Party) -> &TallyKey {
    match party {
        Party::Balancer => &place.balancer,
        Party::Client => &place.client,
    }
}

/// An error if either of both begins too many.
#[inline(never)]
pub fn are_slow(place: &Place, limits: &Limits) -> Result<(), Placed> {
    let now = clock::nanoseconds();
    for party in Party::BOTH {
        let most = limits.of(party).new_per_second;
        if most == 0 {
            continue;
        }
        let tally = maps::tally_or_new(key(place, party)).ok_or(Placed::Failed)?;
        if !tally.rate.has_token(most, now) {
            return Err(Placed::TooFast);
        }
    }
    Ok(())
}

/// Counts one more that has begun.
#[inline(never)]
pub fn take_tokens(place: &Place, limits: &Limits) {
    let now = clock::nanoseconds();
    for party in Party::BOTH {
        if let Some(tally) = maps::tally(key(place, party)) {
            tally.rate.take(limits.of(party).new_per_second, now);
        }
    }
}

/// Where the client has as many as he may, the one of his goes that has been idle for longest of those looked at.
#[inline(always)]
pub fn make_room(place: &mut Place, limits: &Limits) -> Result<(), Placed> {
    let limit = &limits.client;
    if limit.most == 0 {
        return Ok(());
    }
    let tally = maps::tally_or_new(&place.client).ok_or(Placed::Failed)?;
    if limit.has_room(tally.share.count) {
        return Ok(());
    }
    match oldest_idle(Ring::Client, &mut tally.share) {
        0 => return Err(Placed::ClientFull),
        victim => release(place, victim),
    }
    // There may be more than he may have by now.
    match maps::tally(&place.client) {
        Some(tally) if !limit.has_room(tally.share.count) => Err(Placed::ClientFull),
        _ => Ok(()),
    }
}

/// One that has been silent for too long begins anew in its slot.
#[inline(never)]
pub fn begin_again(place: &mut Place, limits: &Limits, slot: u32) -> Result<(), Placed> {
    are_slow(place, limits)?;
    if !is_counted(place, slot) {
        make_room(place, limits)?;
        enter_clients(place, limits, slot);
    }
    take_tokens(place, limits);
    Ok(())
}

/// Whether it is another's slot by now, or counts for its client.
#[inline(always)]
fn is_counted(place: &Place, slot: u32) -> bool {
    maps::slot(slot).is_none_or(|slot| slot.reply != place.reply || slot.in_client.next != 0)
}

/// Counts the flow of a slot for its client.
#[inline(never)]
pub fn enter_clients(place: &Place, limits: &Limits, slot: u32) {
    if limits.client.most != 0
        && let Some(tally) = maps::tally_or_new(&place.client)
    {
        let _ = enter(Ring::Client, Some(&mut tally.share), slot);
    }
}

/// The same of one that is there, should there have been no such limit when it came.
#[inline(always)]
pub fn count(place: &mut Place) -> Placed {
    if !maps::lock(Lock::Datagrams) {
        return Placed::Failed;
    }
    if let Some(known) = maps::find_datagram_flow(&place.reply) {
        // SAFETY: words that are written before the element is in the map, and flags of one.
        let (service, index, flags) = unsafe { ((*known).service, (*known).slot, (*known).flags) };
        place.client = client_of(service, &place.reply);
        if let Some(limits) = maps::limits(service)
            && flags & Flow::LOCAL == 0
            && !is_counted(place, index)
        {
            enter_clients(place, limits, index);
        }
    }
    maps::unlock(Lock::Datagrams);
    Placed::InTable
}
