//! Handing a connection over: from then on the kernel passes the packets of balancer and
//! application on to each other, and both of our sockets stand still.
//!
//! It comes after the first few pieces, so that short connections don't pay for it. The halves go
//! on meanwhile: what our sockets had taken before, or take on the way, they still relay, and the
//! receiver puts both together by their sequence numbers.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::pending,
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpStream, sync::oneshot, time::sleep};

use super::{
    Connection, End,
    addr::canonical,
    open::{Bytes, Moved},
};
use crate::sys::{self, TcpState};

/// What the kernel has to know. Sequence numbers are those of the next byte.
#[derive(Clone, Copy, Debug)]
pub struct Legs {
    pub balancer: SocketAddr,
    pub service: SocketAddr,
    pub client: SocketAddr,
    pub steered: SocketAddr,
    /// Of our socket towards the balancer, and of the one towards the application.
    pub downstream: TcpState,
    pub upstream: TcpState,
    /// Bytes that a half has taken from its source and not yet given on.
    pub in_hand: InHand,
}

#[derive(Clone, Copy, Debug)]
pub struct InHand {
    pub up: u32,
    pub down: u32,
}

/// Passes packets on, past the relay.
pub trait Shortcut: Send + Sync {
    /// From here on packets don't come to the sockets any more. The receiver hears of the end.
    fn open(&self, legs: &Legs) -> io::Result<(u32, oneshot::Receiver<Over>)>;
    /// The sockets have nothing more to bring to the other side.
    fn settled(&self, id: u32) -> io::Result<()>;
    /// A socket has heard the end of this direction, and the other socket has passed it on.
    fn ended(&self, id: u32, direction: Direction);
    /// What was acknowledged since the handover, when the last packet came, and whether it is over.
    fn progress(&self, id: u32) -> io::Result<Progress>;
    fn close(&self, id: u32, legs: &Legs);
    /// Whether such a connection was handed over and has ended, so that its socket is about to be
    /// closed.
    fn has_ended(&self, client: SocketAddr, steered: SocketAddr) -> bool;
    /// For the socket towards the balancer.
    fn mark(&self) -> u32;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

impl Direction {
    pub const fn opposite(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }
}

/// How a connection that was handed over has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    Closed,
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes, without the FIN.
    pub up: u64,
    pub down: u64,
    /// Anything that changes with each packet from the balancer.
    pub heard: u64,
    pub over: Option<Over>,
    /// Whether the end of this direction was acknowledged.
    pub up_ended: bool,
    pub down_ended: bool,
}

/// What one half has moved.
pub struct Gauge<'a> {
    moved: &'a Bytes,
    /// Taken from the source and not yet given to the sink.
    in_hand: Cell<u32>,
    /// From the handover on the kernel counts.
    handed: Cell<bool>,
    /// The source has no more.
    ended: Cell<bool>,
}

impl<'a> Gauge<'a> {
    const fn new(moved: &'a Bytes) -> Self {
        Self {
            moved,
            in_hand: Cell::new(0),
            handed: Cell::new(false),
            ended: Cell::new(false),
        }
    }

    pub fn end(&self) {
        self.ended.set(true);
    }

    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// From the source.
    #[expect(clippy::cast_possible_truncation, reason = "below the size of a pipe")]
    pub fn take(&self, count: usize) {
        self.in_hand.set(self.in_hand.get() + count as u32);
    }

    /// To the sink.
    #[expect(clippy::cast_possible_truncation, reason = "as much was taken before")]
    pub fn give(&self, count: usize) {
        self.in_hand.set(self.in_hand.get() - count as u32);
        if !self.handed.get() {
            self.moved.add(count);
        }
    }

    pub fn get(&self) -> u64 {
        self.moved.get()
    }
}

/// A connection that may be handed over.
pub struct Candidate<'a> {
    shortcut: Option<&'a Arc<dyn Shortcut>>,
    connection: &'a Connection,
    downstream: &'a TcpStream,
    upstream: &'a TcpStream,
    pub up: Gauge<'a>,
    pub down: Gauge<'a>,
    /// Pieces until the next try; 0: never.
    wait: Cell<u32>,
    /// On the heap, as most connections never have it.
    handed: RefCell<Option<Box<Handed<'a>>>>,
}

/// A dozen messages or a few large pieces: who has moved that will move more. Early, as the buffers
/// of a busy connection grow.
const FIRST: u32 = 16;
const LARGE: u32 = 4;
/// Until a better moment.
const AGAIN: u32 = LARGE;

impl<'a> Candidate<'a> {
    pub fn new(
        shortcut: Option<&'a Arc<dyn Shortcut>>,
        connection: &'a Connection,
        downstream: &'a TcpStream,
        upstream: &'a TcpStream,
    ) -> Self {
        let Moved { up, down, .. } = &connection.moved;
        Self {
            shortcut,
            connection,
            downstream,
            upstream,
            up: Gauge::new(up),
            down: Gauge::new(down),
            wait: Cell::new(if shortcut.is_some() { FIRST } else { 0 }),
            handed: RefCell::new(None),
        }
    }

    /// Where this direction comes from.
    pub const fn from(&self, direction: Direction) -> &'a TcpStream {
        match direction {
            Direction::Up => self.downstream,
            Direction::Down => self.upstream,
        }
    }

    pub const fn gauge(&self, direction: Direction) -> &Gauge<'a> {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    /// A half has moved a piece. It has none of it in hand.
    pub fn moved(&self, large: bool) {
        let weight = if large { LARGE } else { 1 };
        match self.wait.get() {
            0 => {}
            wait if wait > weight => self.wait.set(wait - weight),
            _ => self.try_now(),
        }
    }

    fn try_now(&self) {
        self.wait.set(AGAIN);
        match self.hand_over() {
            Ok(None) => {}
            Ok(Some(handed)) => {
                self.wait.set(0);
                self.connection.moved.handed.set(handed.id);
                *self.handed.borrow_mut() = Some(Box::new(handed));
            }
            Err(error) => {
                tracing::debug!(client = %self.connection.client, "not handed over: {error}");
                self.wait.set(0);
            }
        }
    }

    /// None: not now.
    fn hand_over(&self) -> io::Result<Option<Handed<'a>>> {
        let Some(shortcut) = self.shortcut else {
            return Ok(None);
        };
        let in_hand = InHand {
            up: self.up.in_hand.get(),
            down: self.down.in_hand.get(),
        };
        if !takes(self.upstream, self.downstream, in_hand.up)?
            || !takes(self.downstream, self.upstream, in_hand.down)?
        {
            return Ok(None);
        }
        let downstream = sys::tcp_state(self.downstream)?;
        let upstream = sys::tcp_state(self.upstream)?;
        fit(&downstream, &upstream).map_err(io::Error::other)?;
        let legs = Legs {
            balancer: canonical(self.downstream.peer_addr()?),
            service: canonical(self.downstream.local_addr()?),
            client: canonical(self.upstream.local_addr()?),
            steered: canonical(self.upstream.peer_addr()?),
            downstream,
            upstream,
            in_hand,
        };
        if legs.balancer.is_ipv4() != legs.client.is_ipv4() {
            return Err(io::Error::other("the legs are of two IP families"));
        }
        // By the mark the programs know what our socket sends.
        socket2::SockRef::from(self.downstream).set_mark(shortcut.mark())?;
        let (id, over) = shortcut.open(&legs)?;
        for gauge in [&self.up, &self.down] {
            gauge.handed.set(true);
        }
        for socket in [self.downstream, self.upstream] {
            // It would find nobody alive.
            socket2::SockRef::from(socket).set_keepalive(false)?;
        }
        Ok(Some(Handed {
            shortcut,
            id,
            legs,
            over: Cell::new(Some(over)),
        }))
    }

    /// Comes back when the kernel says that the connection has ended, if it is handed over.
    pub fn take_handed(&self) -> Option<oneshot::Receiver<Over>> {
        self.handed.borrow().as_ref()?.over.take()
    }

    /// Waits for the end that the kernel tells, and sees to the sockets meanwhile.
    pub async fn watch(&self, over: oneshot::Receiver<Over>) -> End {
        let over = tokio::select! {
            over = over => over,
            never = self.settle() => match never {},
            error = self.dead_balancer() => return End::Reset(error),
        };
        match (over, self.progress()) {
            (Ok(over), Some(progress)) => self.end(over, &progress),
            (Err(_), _) | (_, None) => End::Stopped,
        }
    }

    /// How it has ended, if it is handed over and the kernel has seen an end.
    pub fn ended(&self) -> Option<End> {
        let progress = self.progress()?;
        Some(self.end(progress.over?, &progress))
    }

    fn progress(&self) -> Option<Progress> {
        let handed = self.handed.borrow();
        let Handed { shortcut, id, .. } = &**handed.as_ref()?;
        shortcut.progress(*id).ok()
    }

    fn end(&self, over: Over, progress: &Progress) -> End {
        // A side that has closed answers a straggler with a reset.
        let both_ended = (progress.up_ended || self.up.has_ended())
            && (progress.down_ended || self.down.has_ended());
        if over == Over::Closed || both_ended {
            End::Closed {
                up: self.up.get() + progress.up,
                down: self.down.get() + progress.down,
            }
        } else {
            End::Reset(io::ErrorKind::ConnectionReset.into())
        }
    }

    async fn settle(&self) -> Infallible {
        // For what was on its way to us at the handover.
        sleep(SETTLE).await;
        while !self.is_settled() {
            sleep(SETTLE).await;
        }
        pending().await
    }

    /// Nothing is owed once both sockets have nothing more to bring to the other side.
    fn is_settled(&self) -> bool {
        let handed = self.handed.borrow();
        let Some(handed) = &*handed else {
            return true;
        };
        let in_hand = self.up.in_hand.get() + self.down.in_hand.get();
        if in_hand != 0 || !self.is_done().unwrap_or(false) {
            return false;
        }
        if let Err(error) = handed.shortcut.settled(handed.id) {
            tracing::debug!(%error, "telling the kernel that nothing is owed");
        }
        for direction in [Direction::Up, Direction::Down] {
            // It came in the moment of the handover, and to us.
            if self.gauge(direction).has_ended() {
                handed.shortcut.ended(handed.id, direction);
            }
        }
        true
    }

    fn is_done(&self) -> io::Result<bool> {
        for socket in [self.downstream, self.upstream] {
            if sys::unread(socket)? != 0 || sys::unacknowledged(socket)? != 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What TCP's keepalive does for connections that are not handed over.
    async fn dead_balancer(&self) -> io::Error {
        let heard = || self.progress().map(|progress| progress.heard);
        let mut last = heard();
        let mut asked = 0;
        loop {
            sleep(if asked == 0 {
                sys::KEEPALIVE
            } else {
                BETWEEN_PROBES
            })
            .await;
            let now = heard();
            if now != last {
                last = now;
                asked = 0;
            } else if asked == PROBES {
                return io::ErrorKind::TimedOut.into();
            } else {
                asked += 1;
                let _ = sys::probe(self.downstream);
            }
        }
    }
}

/// How often it is looked whether the sockets are done.
const SETTLE: Duration = Duration::from_millis(100);
/// As the kernel's defaults for tcp_keepalive_intvl and tcp_keepalive_probes.
const BETWEEN_PROBES: Duration = Duration::from_secs(75);
const PROBES: u32 = 9;

/// What the application may send to a balancer that takes less than most do.
pub fn small_segment(downstream: &TcpStream) -> Option<u32> {
    /// What applications hear otherwise: see the spoof namespace's routes.
    const USUAL: u32 = 1440;
    let taken = socket2::SockRef::from(downstream).tcp_mss().ok()? + sys::TIMESTAMP_BYTES;
    (taken < USUAL).then_some(taken)
}

/// Whether the peer behind `to` has room for all that is still to come from us. It may send itself,
/// and it takes no acknowledgment that lies beyond its window.
fn takes(to: &TcpStream, from: &TcpStream, in_hand: u32) -> io::Result<bool> {
    Ok(sys::unread(from)?.saturating_add(in_hand) <= sys::room(to)?)
}

/// Packets of one leg have to make sense on the other.
fn fit(downstream: &TcpState, upstream: &TcpState) -> Result<(), &'static str> {
    if downstream.options != upstream.options {
        return Err("the legs have agreed on different TCP options");
    }
    if !downstream.options.milliseconds() {
        return Err("timestamps in microseconds");
    }
    if downstream.mss < upstream.mss_expected {
        return Err("the balancer takes smaller segments than the application may send");
    }
    if !downstream.established || !upstream.established {
        return Err("one side has closed already");
    }
    Ok(())
}

/// A connection that is handed over. When it is dropped the kernel goes on for a moment, for the
/// last packets.
struct Handed<'a> {
    shortcut: &'a Arc<dyn Shortcut>,
    id: u32,
    legs: Legs,
    over: Cell<Option<oneshot::Receiver<Over>>>,
}

impl Drop for Handed<'_> {
    fn drop(&mut self) {
        let (shortcut, id, legs) = (self.shortcut.clone(), self.id, self.legs);
        let close = async move {
            sleep(LAST_PACKETS).await;
            shortcut.close(id, &legs);
        };
        tokio::task::spawn_local(close);
    }
}

/// A FIN whose acknowledgment was lost comes again within this.
const LAST_PACKETS: Duration = Duration::from_secs(2);
