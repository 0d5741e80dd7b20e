//! Whom direct connections count for. Their entries tell, so that each is counted once and let go once, whoever sees
//! to it.

use core::ptr::from_mut;

use proxy_common::{
    claim::{Answer, Claim},
    flow::{Down, Tuple, told},
    limits::{Party, TallyKey},
};

use crate::{
    admit::limit::{self, Path},
    maps::{self, Lock},
};

/// Counts the connection whose entries have just been made, if there may be one more. `scratch.claim.is_again` says
/// whether it has been let in before. The answer is an [`Answer`].
///
/// A function that the verifier goes through once, and not from wherever it is called.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn claim_in_scratch() -> u32 {
    let Some(scratch) = maps::scratch() else {
        return Answer::Busy as u32;
    };
    let Some(limits) = maps::limits(scratch.down.service) else {
        return Answer::Done as u32;
    };
    fill(&mut scratch.claim, &scratch.app, &scratch.down);
    if !maps::lock(Lock::Connections) {
        return Answer::Busy as u32;
    }
    let answer = match maps::find_down(&scratch.app) {
        Some(down) => {
            let answer = limit::claim(&mut scratch.claim, limits, Path::Direct);
            // SAFETY: nobody else writes it before there is a socket, but under this lock.
            unsafe { (*down).told |= told::counted(scratch.claim.counted) };
            answer
        }
        None => Answer::Busy,
    };
    maps::unlock(Lock::Connections);
    answer as u32
}

/// Nothing came of it: both entries go, and it is as if it had never been counted. False: others have the lock for
/// too long.
///
/// A function that the verifier goes through once, and not from wherever it is called.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn undo_in_scratch() -> bool {
    let Some(scratch) = maps::scratch() else {
        return false;
    };
    let is_counted = scratch.claim.counted != 0;
    if is_counted && !maps::lock(Lock::Connections) {
        return false;
    }
    if is_counted && maps::find_down(&scratch.app).is_some() {
        limit::undo(&mut scratch.claim);
    }
    maps::forget_tuples(&scratch.segment.tuple, &scratch.app, false);
    if is_counted {
        maps::unlock(Lock::Connections);
    }
    true
}

#[inline(always)]
fn fill(claim: &mut Claim, app: &Tuple, down: &Down) {
    claim.service = down.service;
    claim.counted = told::parties(down.told);
    claim.balancer = *down.rewrite.to.addresses()[1];
    claim.client = *app.addresses()[1];
}

/// Counts it no longer, as it is over. False: others have the lock for too long.
#[inline(always)]
pub fn release(tuple: &Tuple, flow: &mut Down) -> bool {
    flow.told & told::COUNTED == 0 || let_go(tuple, flow, None, false)
}

/// The same of one whose entries go, too.
#[inline(always)]
pub fn remove(up: &Tuple, down: &Tuple, flow: &mut Down, has_header: bool) -> bool {
    if flow.told & told::COUNTED == 0 {
        maps::forget_tuples(up, down, has_header);
        return true;
    }
    let_go(down, flow, Some(up), has_header)
}

/// `goes` has its other entry, if both are removed. A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn let_go(tuple: &Tuple, flow: &mut Down, goes: Option<&Tuple>, has_header: bool) -> bool {
    if !maps::lock(Lock::Connections) {
        return false;
    }
    // Another CPU may have removed it.
    if maps::find_down(tuple) == Some(from_mut(flow)) {
        for party in Party::BOTH {
            uncount(tuple, flow, party);
        }
        flow.told &= !told::COUNTED;
        if let Some(up) = goes {
            maps::forget_tuples(up, tuple, has_header);
        }
    }
    maps::unlock(Lock::Connections);
    true
}

/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn uncount(tuple: &Tuple, flow: &Down, party: Party) {
    if told::parties(flow.told) & party.bit() == 0 {
        return;
    }
    let addr = match party {
        Party::Balancer => flow.rewrite.to.addresses()[1],
        Party::Client => tuple.addresses()[1],
    };
    limit::leave(&TallyKey::connections(
        flow.service,
        party,
        *addr,
        TallyKey::PROGRAMS,
    ));
}

/// Counts one that is there, should its service have had no limits when it came.
#[inline(always)]
pub fn count(tuple: &Tuple, flow: &mut Down) {
    let Some(limits) = maps::limits(flow.service) else {
        return;
    };
    if limits.parties() & !told::parties(flow.told) != 0 {
        count_late(tuple, flow);
    }
}

/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn count_late(tuple: &Tuple, flow: &mut Down) {
    let mut claim = Claim::default();
    let Some(limits) = maps::limits(flow.service) else {
        return;
    };
    // Otherwise the next sweep does it.
    if !maps::lock(Lock::Connections) {
        return;
    }
    if maps::find_down(tuple) == Some(from_mut(flow)) {
        fill(&mut claim, tuple, flow);
        limit::count(&mut claim, limits, Path::Direct);
        flow.told |= told::counted(claim.counted);
    }
    maps::unlock(Lock::Connections);
}
