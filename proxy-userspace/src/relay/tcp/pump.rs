//! Both halves of a connection, each to its own end.
//!
//! A half that ends shuts the other side's writing down and lets the opposite half go on. Both
//! ended: an orderly close. Anything else drops the sockets, which resets both sides.

use std::{
    cell::RefCell,
    future::ready,
    io,
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{
    FutureExt as _,
    future::{Either, select},
};
use rustix::{io::Errno, net::SendFlags};
use tokio::{io::Interest, net::TcpStream};

use super::{direction::Direction, splice};
use crate::{relay::End, sys};

/// Large enough for one system call per burst at full speed.
const BUFFER: usize = 64 * 1024;

thread_local! {
    /// One for all connections of a worker: bytes stay in it only between a read and its write.
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// The worker's buffer, for as long as nothing is waited for.
pub fn with_buffer<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    SHARED.with_borrow_mut(|buffer| f(buffer))
}

/// Relays until both halves have ended; `payload` came with the header and goes up first.
pub async fn pump([up, down]: &[Direction<'_>; 2], payload: Vec<u8>) -> End {
    let halves = select(
        Half::new(up, down, payload),
        Half::new(down, up, Vec::new()),
    );
    let (ended, _) = halves.await.factor_first();
    let closed = ended
        .and_then(|()| sys::end_cleanly(up.from))
        .and_then(|()| sys::end_cleanly(down.from));
    match closed {
        Ok(()) => End::Closed {
            up: up.moved(),
            down: down.moved(),
        },
        Err(error) => End::Reset(error),
    }
}

/// One direction. Comes back when both have ended, or with what broke.
///
/// A future by hand: an idle connection holds room for the next piece only, not for what else there
/// may be to wait for.
struct Half<'a> {
    direction: &'a Direction<'a>,
    opposite: &'a Direction<'a>,
    /// Large ones in a row.
    pieces: u32,
    /// What is waited for before the next piece.
    busy: Option<Busy<'a>>,
}

type Busy<'a> = Pin<Box<dyn Future<Output = io::Result<Next>> + 'a>>;

/// What the source is expected to have.
pub enum Next {
    Piece,
    End,
}

impl<'a> Half<'a> {
    fn new(direction: &'a Direction<'a>, opposite: &'a Direction<'a>, payload: Vec<u8>) -> Self {
        let mut half = Self {
            direction,
            opposite,
            pieces: 0,
            busy: None,
        };
        if !payload.is_empty() {
            half.first(payload);
        }
        half
    }

    /// What came with the header. The sink is new and has room, which tokio doesn't know yet.
    fn first(&mut self, mut payload: Vec<u8>) {
        let to = self.direction.to;
        let written = match rustix::net::send(to, &payload, SendFlags::NOSIGNAL) {
            Ok(written) => written,
            Err(Errno::AGAIN) => 0,
            Err(error) => {
                self.busy = Some(Box::pin(ready(Err(error.into()))));
                return;
            }
        };
        self.direction.add(written);
        let rest = payload.split_off(written);
        if !rest.is_empty() {
            self.busy = Some(Box::pin(flush(self.direction, rest)));
        }
    }

    /// Moves what the source has: copied, or spliced while there is plenty.
    fn piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Next>> {
        if self.pieces == BULK {
            self.pieces = 0;
            self.busy = Some(Box::pin(splice::relay(self.direction)));
            return Poll::Ready(Ok(Next::Piece));
        }
        match ready!(step(cx, self.direction))? {
            Step::Moved { large, rest } => {
                self.pieces = if large { self.pieces + 1 } else { 0 };
                if !rest.is_empty() {
                    self.busy = Some(Box::pin(flush(self.direction, rest)));
                }
                Poll::Ready(Ok(Next::Piece))
            }
            Step::End => Poll::Ready(Ok(Next::End)),
        }
    }

    /// The source has no more. Whoever ends first goes on watching it: it may still be reset.
    fn end(&mut self) -> io::Result<()> {
        let Direction { from, to, .. } = self.direction;
        self.direction.end();
        socket2::SockRef::from(to).shutdown(Shutdown::Write)?;
        self.busy = Some(Box::pin(async move { Err(reset(from).await) }));
        Ok(())
    }
}

impl Future for Half<'_> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let next = if let Some(busy) = &mut self.busy {
                let next = ready!(busy.as_mut().poll(cx))?;
                self.busy = None;
                next
            } else {
                ready!(self.piece(cx))?
            };
            match next {
                Next::Piece => {}
                Next::End if self.opposite.has_ended() => {
                    // Closing the sockets ends this half as well.
                    self.direction.end();
                    return Poll::Ready(Ok(()));
                }
                Next::End => self.end()?,
            }
        }
    }
}

/// So many large pieces in a row are bulk.
const BULK: u32 = 4;

enum Step {
    Moved {
        /// Enough for a splice to pay.
        large: bool,
        /// What the sink didn't take: it has to wait, and with it the source.
        rest: Vec<u8>,
    },
    End,
}

/// One read and one write, through the shared buffer.
fn step(cx: &mut Context<'_>, direction: &Direction<'_>) -> Poll<io::Result<Step>> {
    with_buffer(|buffer| {
        let from = direction.from;
        let read = ready!(poll_read(cx, from, buffer))?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            return Poll::Ready(Ok(Step::End));
        }
        let large = read >= splice::SMALL;
        let last = read < buffer.len() && has_ended(from);
        let rest = write_some(direction, bytes, last)?.to_vec();
        Poll::Ready(Ok(Step::Moved { large, rest }))
    })
}

pub fn poll_read(
    cx: &mut Context<'_>,
    from: &TcpStream,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    // Others of this worker want their turn.
    let coop = ready!(tokio::task::coop::poll_proceed(cx));
    loop {
        ready!(from.poll_read_ready(cx))?;
        match try_read(from, buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => {
                coop.made_progress();
                return Poll::Ready(read);
            }
        }
    }
}

/// What leaves nothing has emptied the socket: tokio waits for more, and doesn't ask in vain first.
fn try_read(from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut last = None;
    let read = from.try_io(Interest::READABLE, || {
        let (read, is_left) = sys::inq::read(from, buffer)?;
        if read == 0 || is_left {
            return Ok(read);
        }
        last = Some(read);
        Err(io::ErrorKind::WouldBlock.into())
    });
    last.map_or(read, Ok)
}

/// Whether the source's end has been heard, which comes right behind what it has.
fn has_ended(from: &TcpStream) -> bool {
    let ready = from.ready(Interest::READABLE).now_or_never();
    ready.is_some_and(|ready| ready.is_ok_and(|ready| ready.is_read_closed()))
}

/// Writes what fits; returns the rest. The last of it waits for the end, to go with it.
fn write_some<'a>(direction: &Direction<'_>, bytes: &'a [u8], last: bool) -> io::Result<&'a [u8]> {
    let to = direction.to;
    let mut flags = SendFlags::NOSIGNAL;
    flags.set(SendFlags::MORE, last);
    let written = to.try_io(Interest::WRITABLE, || {
        rustix::net::send(to, bytes, flags).map_err(Into::into)
    });
    let written = match written {
        Ok(written) => written,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(error),
    };
    direction.add(written);
    Ok(bytes.get(written..).unwrap_or_default())
}

/// Waits until all is written. Nobody reads the source meanwhile, so its reset is watched for.
async fn flush(direction: &Direction<'_>, bytes: Vec<u8>) -> io::Result<Next> {
    let write_all = async {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            direction.to.writable().await?;
            rest = write_some(direction, rest, false)?;
        }
        Ok(Next::Piece)
    };
    match select(
        std::pin::pin!(write_all),
        std::pin::pin!(reset(direction.from)),
    )
    .await
    {
        Either::Left((written, _)) => written,
        Either::Right((error, _)) => Err(error),
    }
}

/// Comes back when the connection is reset.
pub async fn reset(from: &TcpStream) -> io::Error {
    if let Err(error) = from.ready(Interest::ERROR).await {
        return error;
    }
    match from.take_error() {
        Ok(Some(error)) | Err(error) => error,
        Ok(None) => io::ErrorKind::ConnectionReset.into(),
    }
}
