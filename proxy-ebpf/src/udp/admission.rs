//! Which service a datagram is for, and whether its balancer may send to it.

use proxy_common::{Counter, datagram::Receiver, flow::Tuple};

use super::way;
use crate::{
    clock,
    maps::{self, Scratch},
    verdict::Verdict,
};

/// The service that a datagram is for, if it goes straight there. What has once been asked is asked again in the
/// next second, or when a list has changed.
#[inline(always)]
pub fn admit(scratch: &mut Scratch) -> Result<Option<&'static Receiver>, Verdict> {
    scratch.now = clock::seconds();
    scratch.stamp = maps::stamp(scratch.now);
    let datagram = &scratch.segment.tuple;
    let now = [scratch.now, scratch.stamp];
    let any_is_direct = maps::any_has(Receiver::DIRECT);
    let mut admitted = match any_is_direct {
        true => maps::admitted(datagram, now),
        false => None,
    };
    if admitted.is_none() {
        match admission(datagram, now) {
            Admission::Noted if any_is_direct => admitted = maps::admitted(datagram, now),
            Admission::NoService => return Ok(None),
            Admission::Refused => return Err(Verdict::drop(Counter::DatagramRefused)),
            Admission::Noted | Admission::ByDaemon => {
                let to_daemon = Counter::DatagramToDaemonService;
                return Err(way::if_foreign(datagram.addresses()[0], to_daemon));
            }
        }
    }
    Ok(admitted.map(|admitted| {
        scratch.app_at = admitted.app;
        &admitted.receiver
    }))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Admission {
    NoService,
    Refused,
    ByDaemon,
    Noted,
}

/// A function of its own, as a program's stack has 512 bytes.
#[inline(never)]
fn admission(datagram: &Tuple, now: [u32; 2]) -> Admission {
    let Some(receiver) = receiver_of(datagram) else {
        return Admission::NoService;
    };
    if !maps::allows(receiver.service(), datagram.addresses()[0]) {
        return Admission::Refused;
    }
    if !maps::has(receiver, Receiver::DIRECT) {
        return Admission::ByDaemon;
    }
    maps::note_admitted(datagram, now, receiver);
    Admission::Noted
}

#[inline(always)]
pub fn receiver_of(datagram: &Tuple) -> Option<&'static Receiver> {
    let to = datagram.destination();
    let can_be_here = maps::is_receiving(to.port() as u16)
        && !maps::is_steer(&to.addr())
        && maps::is_reached(&to.addr());
    if can_be_here {
        maps::receiver_at(&to)
    } else {
        None
    }
}
