//! Datagrams as the programs know them: who receives them, and the flows that their replies take back.
//!
//! "Up" is from the balancer to the application, "down" the way back.

use crate::{Addr, Endpoint, Steered, flow::Tuple, shares::RingSizes};

/// Entries of the flow table. [`shares`](crate::shares) has who gets them.
pub const MAX_DATAGRAM_FLOWS: u32 = 1 << 17;
/// Datagrams in pieces whose later pieces are still to come; the oldest go.
pub const MAX_DATAGRAM_PIECES: u32 = 1 << 12;

/// So many balancers may come by devices that others' routes have; the oldest go.
pub const MAX_REVERSE_PATHS: u32 = 1 << 12;

/// What the programs know of a listen address of UDP.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receiver {
    service: u32,
    flags: u32,
    /// Seconds without a datagram after which a flow counts as none; they fit 16 bits.
    close_after: u32,
    sizes: RingSizes,
    target4: Steered,
    target6: Steered,
}

impl Receiver {
    /// A v2 header is in front of each datagram.
    pub const V2: u32 = 1;
    /// A v2 header is in front of the first datagram of a balancer's socket.
    pub const V2_FIRST: u32 = 2;
    /// Cloudflare's Simple Proxy Protocol, in front of each datagram and of each reply.
    pub const SPP: u32 = 4;
    /// Datagrams go straight to the application, and not by the daemon.
    pub const DIRECT: u32 = 8;
    /// No flow begins. No flow has it.
    pub const DRAINED: u32 = 1 << 16;

    /// `target4` and `target6` are the service's applications: where each is, and what datagrams for it
    /// are sent to.
    #[must_use]
    pub const fn new(
        service: u32,
        flags: u32,
        close_after: u16,
        sizes: RingSizes,
        target4: Steered,
        target6: Steered,
    ) -> Self {
        Self {
            service,
            flags,
            close_after: close_after as u32,
            sizes,
            target4,
            target6,
        }
    }

    #[must_use]
    pub const fn service(&self) -> u32 {
        self.service
    }

    #[must_use]
    pub const fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    #[must_use]
    pub const fn flags(&self) -> u32 {
        self.flags
    }

    #[must_use]
    pub const fn close_after(&self) -> u32 {
        self.close_after
    }

    #[must_use]
    pub const fn sizes(&self) -> RingSizes {
        self.sizes
    }

    /// Of a client's family.
    #[must_use]
    pub const fn target(&self, client: &Addr) -> &Steered {
        match client.v4() {
            Some(_) => &self.target4,
            None => &self.target6,
        }
    }
}

/// What clients' datagrams for an application are sent to, and it answers from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aim {
    at: Endpoint,
    flags: u32,
    app: u32,
}

impl Aim {
    /// Nobody but balancers' clients and this host is answered from there.
    pub const EXCLUSIVE: u32 = 1;

    /// `app` is where the application's socket is among those of all.
    #[must_use]
    pub const fn new(at: Endpoint, flags: u32, app: u32) -> Self {
        Self { at, flags, app }
    }

    #[must_use]
    pub const fn app(&self) -> u32 {
        self.app
    }

    #[must_use]
    pub const fn at(&self) -> &Endpoint {
        &self.at
    }

    #[must_use]
    pub const fn is_exclusive(&self) -> bool {
        self.flags & Self::EXCLUSIVE != 0
    }
}

/// When something was found out that holds for as long as no list changes, and to be asked again in the next second:
/// by the clock's seconds, and by how often a list was changed. It is never 0.
#[must_use]
pub const fn stamp(now: u32, list_changes: u32) -> u32 {
    now << 16 | (list_changes & 0x7fff) << 1 | 1
}

/// What has gone one way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub datagrams: u64,
    /// Without headers.
    pub bytes: u64,
}

/// A client's datagrams to an application, by the application's replies. The key is their tuple.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// From where the balancer has sent to, to the balancer.
    pub back: Tuple,
    pub service: u32,
    /// Since when, and when the last datagram went either way, in the seconds of
    /// [`seconds`](crate::flow::seconds).
    pub opened: u32,
    pub last: u32,
    /// How headers come, and whether replies go straight: [`Receiver`]'s flags.
    pub flags: u16,
    /// As [`Receiver`]'s.
    pub close_after: u16,
    /// Where the client has sent to, as its SPP header says.
    pub stated: Endpoint,
    /// Its [`Slot`](crate::shares::Slot).
    pub slot: u32,
    /// When the last datagram for the application took the longer way, by `lo`; 0: never.
    pub by_lo: u32,
    /// The [`stamp`] of when its client was last found to be one who may send; 0: never.
    pub judged: u32,
    /// When its balancer last spoke for the client.
    pub spoken: u32,
    pub up: Traffic,
    pub down: Traffic,
    /// When the daemon was last given a datagram that the programs can't send on, each way; 0: never.
    pub daemon_up: u32,
    pub daemon_down: u32,
    /// To the balancer.
    pub way_back: Way,
    /// To an application beyond this host.
    pub way_on: Way,
}

/// Which way packets go, as the host's routing has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The index of the device; 0: there is none that leads there.
    pub device: u32,
    /// The largest packet there.
    pub mtu: u16,
    /// The neighbour on the way, or zeroes if the kernel doesn't know it.
    pub mac: [u8; 6],
    /// When that was found out, in seconds; 0: not yet.
    pub found: u32,
}

/// A balancer's address, and a device that its datagrams have come by.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReversePath {
    pub balancer: Addr,
    pub device: u32,
}

impl ReversePath {
    /// For so many seconds the programs believe the daemon, which has asked for the route.
    pub const LIFE: u32 = 10;

    /// As the map has it, from when it was asked, in seconds, and whether a route leads there.
    #[must_use]
    pub const fn judgement(now: u32, leads: bool) -> u32 {
        now << 1 | leads as u32
    }

    /// Whether a route leads there, as long as that is to be believed.
    #[must_use]
    pub const fn judged(judgement: u32, now: u32) -> Option<bool> {
        let since = judgement >> 1;
        if judgement == 0 || now.wrapping_sub(since) > Self::LIFE {
            return None;
        }
        Some(judgement & 1 != 0)
    }
}

impl Way {
    /// Every IPv6 link takes as much.
    const LEAST_MTU: u16 = 1280;
    /// Of `found`: no route tells it.
    const OF_LINK: u32 = u32::MAX;

    /// To somebody whose address means something on one link alone, which is behind this device.
    #[must_use]
    pub const fn of_link(device: u32) -> Self {
        Self {
            device,
            mtu: Self::LEAST_MTU,
            mac: [0; 6],
            found: Self::OF_LINK,
        }
    }

    #[must_use]
    pub const fn is_of_link(&self) -> bool {
        self.found == Self::OF_LINK
    }

    /// The device that it is behind, if it is one of a link.
    #[must_use]
    pub const fn link(&self) -> Option<u32> {
        if self.is_of_link() {
            Some(self.device)
        } else {
            None
        }
    }
}

impl Flow {
    /// One that its balancer has spoken for so lately isn't another balancer's, and one with traffic this young
    /// doesn't make room for others.
    const BUSY: u32 = 5;

    /// Of `flags`: its client has been denied since its last datagram. It stays, so that nothing of what its
    /// application still has to say gets to the client itself.
    pub const DENIED: u16 = 1 << 9;
    /// Of `flags`: by its last header, the balancer speaks for itself.
    pub const LOCAL: u16 = 1 << 10;
    /// Of `flags`, for a check: its application's socket has got a datagram.
    pub const HEARD: u16 = 1 << 8;

    /// Whether it has been silent for too long. What the daemon takes for now may be half a second ago.
    #[must_use]
    pub const fn is_over(&self, now: u32) -> bool {
        now.saturating_sub(self.last) > self.close_after as u32
    }

    /// Whether errors about its datagrams may come still: a host puts pieces together for up to a minute.
    #[must_use]
    pub const fn may_be_told(&self, now: u32) -> bool {
        const LATE: u32 = 90;
        now.saturating_sub(self.last) <= self.close_after as u32 + LATE
    }

    #[must_use]
    pub const fn is_denied(&self) -> bool {
        self.flags & Self::DENIED != 0
    }

    /// Whether a datagram follows one that took a longer way then, lest it overtakes that.
    #[must_use]
    pub const fn follows(given: u32, now: u32) -> bool {
        given != 0 && now.saturating_sub(given) <= 1
    }

    /// Whether another balancer can't have it. What the application says doesn't count: it may go on for as long as it
    /// likes to one who is gone.
    #[must_use]
    pub const fn is_spoken_for(&self, now: u32) -> bool {
        now.saturating_sub(self.spoken) < Self::BUSY
    }

    /// Whether it is of another balancer, or of another service's, than the one at `balancer`, behind `link` if that means
    /// nothing elsewhere.
    #[inline(always)]
    #[must_use]
    pub fn is_of_other(&self, balancer: &Addr, link: Option<u32>, service: u32) -> bool {
        self.back.addresses()[1] != balancer
            || link.is_some() && link != self.way_back.link()
            || self.service != service
    }

    /// One more datagram of so many bytes from its balancer, who comes with these flags.
    #[inline(always)]
    pub const fn count_up(&mut self, bytes: u64, flags: u16, now: u32) {
        (self.last, self.spoken) = (now, now);
        // Who was denied isn't any more.
        self.flags = flags;
        self.up.datagrams += 1;
        self.up.bytes += bytes;
    }

    /// One more of so many bytes from its application.
    #[inline(always)]
    pub const fn count_down(&mut self, bytes: u64, now: u32) {
        self.last = now;
        self.down.datagrams += 1;
        self.down.bytes += bytes;
    }

    /// Whether another one can't have its place.
    #[must_use]
    pub const fn is_busy(&self, now: u32) -> bool {
        now.saturating_sub(self.last) < Self::BUSY
    }

    #[must_use]
    pub const fn has(&self, flag: u32) -> bool {
        self.flags as u32 & flag != 0
    }
}

/// Cloudflare's Simple Proxy Protocol.
pub mod spp {
    /// Magic, two addresses of 16 bytes, two ports.
    pub const LEN: usize = 38;
    pub const MAGIC: [u8; 2] = [0x56, 0xec];
}

layout! {
    Receiver = 100,
    Aim = 28,
    Traffic = 16,
    Flow = 160,
    Way = 16,
    ReversePath = 20,
}
