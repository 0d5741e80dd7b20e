//! Both halves of a connection, each to its own end.
//!
//! A half that ends shuts the other side's writing down and lets the opposite half go on. Both
//! ended: an orderly close. Anything else drops the sockets, which resets both sides.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    io,
    net::Shutdown,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::{
    FutureExt as _,
    future::{Either, select},
};
use tokio::{io::Interest, net::TcpStream};

use super::{
    Connection, End,
    handover::{Candidate, Gauge, Shortcut},
    splice,
};
use crate::sys;

/// Large enough for one system call per burst at full speed.
const BUFFER: usize = 64 * 1024;

thread_local! {
    /// One for all connections of a worker: bytes stay in it only between a read and its write.
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// Relays until both halves have ended; `payload` came with the header and goes up first.
pub async fn pump(
    downstream: TcpStream,
    upstream: TcpStream,
    payload: Vec<u8>,
    connection: &Connection,
    shortcut: Option<&Arc<dyn Shortcut>>,
) -> End {
    let candidate = Candidate::new(shortcut, connection, &downstream, &upstream);
    let ended = {
        let other_ended = Cell::new(false);
        let upward = Half {
            from: &downstream,
            to: &upstream,
            gauge: &candidate.up,
            candidate: &candidate,
            other_ended: &other_ended,
        };
        let downward = Half {
            from: &upstream,
            to: &downstream,
            gauge: &candidate.down,
            ..upward
        };
        let halves = select(
            Box::pin(upward.run(payload)),
            Box::pin(downward.run(Vec::new())),
        );
        match until_end(halves, &candidate).await {
            Ok(ended) => ended.factor_first().0,
            Err(end) => return end,
        }
    };
    let closed = ended
        .and_then(|()| sys::end_cleanly(&downstream))
        .and_then(|()| sys::end_cleanly(&upstream));
    match closed {
        Ok(()) => End::Closed {
            up: candidate.up.get(),
            down: candidate.down.get(),
        },
        Err(error) => End::Reset(error),
    }
}

/// The halves' end, or that of the connection after it was handed over.
async fn until_end<T>(
    mut halves: impl Future<Output = T> + Unpin,
    candidate: &Candidate<'_>,
) -> Result<T, End> {
    let mut watch = None;
    poll_fn(|cx| {
        if let Poll::Ready(ended) = halves.poll_unpin(cx) {
            // Where the kernel has seen the end, our sockets only hear of it.
            return Poll::Ready(candidate.ended().map_or(Ok(ended), Err));
        }
        if let Some(over) = candidate.take_handed() {
            watch = Some(Box::pin(candidate.watch(over)));
        }
        match &mut watch {
            Some(watch) => watch.poll_unpin(cx).map(Err),
            None => Poll::Pending,
        }
    })
    .await
}

/// One direction.
#[derive(Clone, Copy)]
struct Half<'a, 'b> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    gauge: &'a Gauge<'b>,
    candidate: &'a Candidate<'b>,
    other_ended: &'a Cell<bool>,
}

impl Half<'_, '_> {
    /// Comes back when both halves have ended, or with what broke. The half that ends first goes on
    /// watching its source, which may still be reset.
    async fn run(self, payload: Vec<u8>) -> io::Result<()> {
        if !payload.is_empty() {
            self.gauge.take(payload.len());
            Box::pin(flush(self.from, self.to, payload, self.gauge)).await?;
        }
        self.relay().await?;
        self.gauge.end();
        if self.other_ended.replace(true) {
            // Closing the sockets ends this half as well.
            return Ok(());
        }
        socket2::SockRef::from(self.to).shutdown(Shutdown::Write)?;
        Err(reset(self.from).await)
    }

    /// Moves data until the source has no more: copied, or spliced while there is plenty. What waits
    /// for room and what splices is on the heap, so that an idle connection doesn't hold room for
    /// them.
    async fn relay(&self) -> io::Result<()> {
        let mut pieces = 0;
        loop {
            match poll_fn(|cx| step(cx, self.from, self.to, self.gauge)).await? {
                Step::Moved { large, rest } => {
                    if !rest.is_empty() {
                        Box::pin(flush(self.from, self.to, rest, self.gauge)).await?;
                    }
                    pieces = if large { pieces + 1 } else { 0 };
                    self.candidate.moved(large);
                }
                Step::End => return Ok(()),
            }
            if pieces == BULK {
                pieces = 0;
                let moved = |large| self.candidate.moved(large);
                let spliced = splice::relay(self.from, self.to, self.gauge, moved);
                if Box::pin(spliced).await? == splice::Ended::Source {
                    return Ok(());
                }
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
fn step(
    cx: &mut Context<'_>,
    from: &TcpStream,
    to: &TcpStream,
    gauge: &Gauge<'_>,
) -> Poll<io::Result<Step>> {
    SHARED.with_borrow_mut(|buffer| {
        let read = ready!(poll_read(cx, from, buffer))?;
        let bytes = buffer.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            return Poll::Ready(Ok(Step::End));
        }
        gauge.take(read);
        let large = read >= splice::SMALL;
        let rest = write_some(to, bytes, gauge)?.to_vec();
        Poll::Ready(Ok(Step::Moved { large, rest }))
    })
}

fn poll_read(cx: &mut Context<'_>, from: &TcpStream, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    // Others of this worker want their turn.
    let coop = ready!(tokio::task::coop::poll_proceed(cx));
    loop {
        ready!(from.poll_read_ready(cx))?;
        match from.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => {
                coop.made_progress();
                return Poll::Ready(read);
            }
        }
    }
}

/// Writes what fits; returns the rest.
fn write_some<'a>(to: &TcpStream, bytes: &'a [u8], gauge: &Gauge<'_>) -> io::Result<&'a [u8]> {
    let written = match to.try_write(bytes) {
        Ok(written) => written,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(error),
    };
    gauge.give(written);
    Ok(bytes.get(written..).unwrap_or_default())
}

/// Waits until all is written. Nobody reads the source meanwhile, so its reset is watched for.
async fn flush(
    from: &TcpStream,
    to: &TcpStream,
    bytes: Vec<u8>,
    gauge: &Gauge<'_>,
) -> io::Result<()> {
    let write_all = async {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            to.writable().await?;
            rest = write_some(to, rest, gauge)?;
        }
        Ok(())
    };
    match select(std::pin::pin!(write_all), std::pin::pin!(reset(from))).await {
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
