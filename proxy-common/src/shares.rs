//! How many flows of datagrams there may be: of a service, and of a balancer of its. Each flow has a slot,
//! which is in the service's ring and in its balancer's. Where a ring is full, its hand looks for an idle flow
//! that makes room for a new one (the CLOCK algorithm).

use crate::{
    Addr,
    datagram::{Flow, MAX_DATAGRAM_FLOWS},
    flow::Tuple,
    limits::TallyKey,
};

/// How many flows the rings of a service, and of each balancer of its, take.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingSizes {
    pub service: u32,
    pub balancer: u32,
}

impl RingSizes {
    /// Slot 0 is no flow's.
    pub const MOST: Self = Self {
        service: MAX_DATAGRAM_FLOWS - 1,
        balancer: MAX_DATAGRAM_FLOWS - 1,
    };
    /// No balancer alone fills the table.
    pub const OF_BALANCER: u32 = MAX_DATAGRAM_FLOWS / 2;

    /// Flows for one datagram.
    pub const LOOKED_AT: u32 = 8;
}

/// The rings that each flow is in; its client's, where that one may have so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    Service,
    Balancer,
    Client,
}

/// Whose a ring is. The key of its [`Share`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    service: u32,
    balancer: Addr,
}

impl Holder {
    /// With this many at a time, the flows of those that are too many have one ring together. They may be
    /// made up, where anybody is allowed.
    pub const MOST: u32 = 1 << 12;

    /// Neither can be a balancer's.
    const NOBODY: Addr = Addr::from_v6([0; 4]);
    const SURPLUS: Addr = Addr::from_v6([u32::MAX; 4]);

    #[must_use]
    pub const fn balancer(service: u32, balancer: Addr) -> Self {
        Self { service, balancer }
    }

    #[must_use]
    pub const fn service(&self) -> Self {
        Self::balancer(self.service, Self::NOBODY)
    }

    #[must_use]
    pub const fn service_id(&self) -> u32 {
        self.service
    }

    #[must_use]
    pub const fn surplus(&self) -> Self {
        Self::balancer(self.service, Self::SURPLUS)
    }
}

/// A ring's size, and where its hand is; 0: it is empty.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub count: u32,
    pub hand: u32,
}

/// A flow's neighbours in a ring, by their slots.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Links {
    pub before: u32,
    pub next: u32,
}

/// A flow's place. Slot 0's links tell where the free ones begin, and which one was the last to be given out
/// for the first time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// The flow's key.
    pub reply: Tuple,
    pub holder: Holder,
    pub in_service: Links,
    pub in_balancer: Links,
    /// Zeroes: it isn't in its client's.
    pub in_client: Links,
}

impl Slot {
    pub const fn links(&mut self, ring: Ring) -> &mut Links {
        match ring {
            Ring::Service => &mut self.in_service,
            Ring::Balancer => &mut self.in_balancer,
            Ring::Client => &mut self.in_client,
        }
    }
}

/// What becomes of a new flow.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    InTable,
    /// As many as there may be, and those that were looked at are busy.
    Full,
    /// The kernel has no memory, or others are at the table for too long.
    Failed,
    /// There is none, or none any more.
    Gone,
    /// Another balancer speaks for its client.
    Taken,
    /// Its client has as many as he may, and those that were looked at are busy.
    ClientFull,
    /// Its balancer, or its client, begins too many in a second.
    TooFast,
}

impl Placed {
    const ALL: [Self; 7] = [
        Self::InTable,
        Self::Full,
        Self::Failed,
        Self::Gone,
        Self::Taken,
        Self::ClientFull,
        Self::TooFast,
    ];

    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|placed| *placed as u32 == number)
    }
}

/// What the daemon wants of a flow.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// One more datagram from the balancer.
    Note,
    /// One more from the application.
    Reply,
    /// An end, as its client is denied.
    Deny,
    /// To count it for its client, who may have so many by now.
    Count,
}

/// What is to be done for a new flow, besides the flow itself, and room for doing it: a program's stack has
/// 512 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub reply: Tuple,
    pub sizes: RingSizes,
    pub holder: Holder,
    /// Its client's, and its balancer's.
    pub client: TallyKey,
    pub balancer: TallyKey,
    /// Of what makes room.
    pub others: Holder,
    pub other: Tuple,
    pub others_client: TallyKey,
}

/// A flow of the daemon's, for the program `place`, and what became of it: a packet of no other meaning, which the
/// program answers by writing into it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placing {
    /// Zeroes, as the kernel looks for an Ethernet header.
    pub header: [u32; 4],
    /// With what there is more of; then as the table has it.
    pub flow: Flow,
    pub place: Place,
    /// As [`Wanted`].
    pub wanted: u32,
    /// As [`Placed`].
    pub placed: u32,
}

layout! {
    RingSizes = 8,
    Holder = 20,
    Share = 8,
    Slot = 80,
    Place = 192,
    Placing = 376,
}
