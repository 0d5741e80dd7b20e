//! How many connections a service's balancers and clients have, each of them, and whether there may be one more. Both
//! paths count here.

use core::ffi::c_void;

use aya_ebpf::programs::TcContext;
use proxy_common::{
    claim::{Answer, Ask, Claim},
    limits::{Limit, Limits, Party, Tally, TallyKey},
};

use crate::{
    clock, ctx,
    maps::{self, Lock},
};

/// Who counts a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Path {
    Direct,
    Daemon,
}

impl Path {
    #[inline(always)]
    fn key(self, claim: &Claim, party: Party) -> TallyKey {
        let owner = match self {
            Self::Direct => TallyKey::PROGRAMS,
            Self::Daemon => maps::owner(),
        };
        TallyKey::connections(claim.service, party, claim.addr(party), owner)
    }
}

/// Counts a connection, if there may be one more. Who calls this has the lock.
#[inline(always)]
pub fn claim(claim: &mut Claim, limits: &Limits, path: Path) -> Answer {
    let now = clock::nanoseconds();
    for party in Party::BOTH {
        let answer = judge(claim, limits.of(party), party, path, now);
        if answer != Answer::Done {
            return answer;
        }
    }
    for party in Party::BOTH {
        enter(claim, limits.of(party), party, path);
        if claim.is_again == 0
            && let Some(all) = maps::tally(&Path::Direct.key(claim, party))
        {
            all.rate.take(limits.of(party).new_per_second, now);
        }
    }
    Answer::Done
}

/// Afterwards there are tallies for it. A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn judge(claim: &Claim, limit: &Limit, party: Party, path: Path, now: u64) -> Answer {
    if !limit.is_set() {
        return Answer::Done;
    }
    let daemons = Path::Daemon.key(claim, party);
    let daemons = match path {
        Path::Direct => maps::tally(&daemons),
        Path::Daemon => match maps::tally_or_new(&daemons) {
            None => return Answer::NoRoom,
            own => own,
        },
    };
    let count = daemons.map_or(0, |tally| tally.share.count);
    let Some(all) = maps::tally_or_new(&Path::Direct.key(claim, party)) else {
        return Answer::NoRoom;
    };
    if !limit.has_room(count + all.share.count) {
        return Answer::full(party);
    }
    match claim.is_again == 0 && !all.rate.has_token(limit.new_per_second, now) {
        true => Answer::too_fast(party),
        false => Answer::Done,
    }
}

/// Counts a connection that is there, for whom it isn't counted yet.
#[inline(always)]
pub fn count(claim: &mut Claim, limits: &Limits, path: Path) {
    for party in Party::BOTH {
        enter(claim, limits.of(party), party, path);
    }
}

#[inline(never)]
fn enter(claim: &mut Claim, limit: &Limit, party: Party, path: Path) {
    if !limit.is_set() || claim.counts(party) {
        return;
    }
    if let Some(tally) = maps::tally_or_new(&path.key(claim, party)) {
        tally.share.count += 1;
        claim.counted |= party.bit();
    }
}

/// Counts it no longer.
#[inline(always)]
pub fn release(claim: &mut Claim, path: Path) {
    for party in Party::BOTH {
        if claim.counts(party) {
            leave(&path.key(claim, party));
        }
    }
    claim.counted = 0;
}

/// One less.
#[inline(always)]
pub fn leave(key: &TallyKey) {
    if let Some(tally) = maps::tally(key) {
        tally.share.count = tally.share.count.saturating_sub(1);
    }
}

/// As if a direct one had never come.
#[inline(always)]
pub fn undo(claim: &mut Claim) {
    if let Some(limits) = maps::limits(claim.service)
        && claim.is_again == 0
    {
        for party in Party::BOTH {
            if let Some(tally) = maps::tally(&Path::Direct.key(claim, party)) {
                tally.rate.give_back(limits.of(party).new_per_second);
            }
        }
    }
    release(claim, Path::Direct);
}

/// What the daemon asks of its connections.
#[inline(always)]
pub fn answer_daemon(ctx: &TcContext) {
    let mut claim = Claim::default();
    if ctx::load_all(ctx, &mut claim).is_err() {
        return;
    }
    let answer = match claim.ask {
        TIDY => tidy(&mut claim),
        _ => answer(&mut claim),
    };
    claim.answer = answer as u32;
    // Without an answer, it says that others were busy.
    let _ = ctx::store_all(ctx, &claim);
}

const CLAIM: u32 = Ask::Claim as u32;
const COUNT: u32 = Ask::Count as u32;
const TIDY: u32 = Ask::Tidy as u32;

#[inline(always)]
fn answer(asked: &mut Claim) -> Answer {
    if !maps::lock(Lock::Connections) {
        return Answer::Busy;
    }
    let answer = match (asked.ask, maps::limits(asked.service)) {
        (CLAIM, Some(limits)) => claim(asked, limits, Path::Daemon),
        (COUNT, Some(limits)) => {
            count(asked, limits, Path::Daemon);
            Answer::Done
        }
        (CLAIM | COUNT, None) => Answer::Done,
        _ => {
            release(asked, Path::Daemon);
            Answer::Done
        }
    };
    maps::unlock(Lock::Connections);
    answer
}

/// Forgets the tallies that say nothing, and those of daemons that are no more.
#[inline(always)]
fn tidy(claim: &mut Claim) -> Answer {
    let mut tidying = Tidying {
        now: clock::nanoseconds(),
        left: 0,
    };
    maps::for_each_tally(tidy_one, &mut tidying);
    claim.left = tidying.left as u32;
    Answer::Done
}

struct Tidying {
    now: u64,
    left: u64,
}

unsafe extern "C" fn tidy_one(
    _map: *mut c_void,
    key: *const TallyKey,
    tally: *mut Tally,
    tidying: *mut Tidying,
) -> i64 {
    // SAFETY: the kernel's arguments, and what `tidy` gave it.
    let (key, tally, tidying) = unsafe { (*key, &*tally, &mut *tidying) };
    let is_over = is_forgotten_daemons(&key) || tally.is_over(tidying.now);
    let is_gone = is_over
        && match key.is_of_datagrams() {
            true => forget(&key, Lock::Datagrams, tidying.now),
            false => forget(&key, Lock::Connections, tidying.now),
        };
    tidying.left += u64::from(!is_gone);
    0
}

/// Connections of a daemon end with it.
#[inline(always)]
fn is_forgotten_daemons(key: &TallyKey) -> bool {
    key.owner() != TallyKey::PROGRAMS && key.owner() != maps::owner()
}

/// Unless it says something by now. False: it is there still.
#[inline(always)]
fn forget(key: &TallyKey, lock: Lock, now: u64) -> bool {
    if !maps::lock(lock) {
        return false;
    }
    let is_over = is_forgotten_daemons(key) || maps::tally(key).is_none_or(|it| it.is_over(now));
    if is_over {
        maps::forget_tally(key);
    }
    maps::unlock(lock);
    is_over
}
