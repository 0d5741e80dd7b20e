//! Both halves of a connection, each to its own end.
//!
//! A half that ends shuts the other side's writing down and lets the opposite half go on. Both
//! ended: an orderly close. Anything else drops the sockets, which resets both sides.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::future::{Either, select};
use tokio::{
    io::{AsyncRead as _, AsyncWriteExt as _, Interest, ReadBuf},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

use super::{
    End,
    open::{Bytes, Moved},
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
    mut downstream: TcpStream,
    mut upstream: TcpStream,
    payload: Vec<u8>,
    moved: &Moved,
) -> End {
    let (up, down) = (&moved.up, &moved.down);
    let ended = {
        let other_ended = Cell::new(false);
        let (from_balancer, to_balancer) = downstream.split();
        let (from_app, to_app) = upstream.split();
        let upward = half(from_balancer, to_app, payload, up, &other_ended);
        let downward = half(from_app, to_balancer, Vec::new(), down, &other_ended);
        match select(Box::pin(upward), Box::pin(downward)).await {
            Either::Left((ended, _)) | Either::Right((ended, _)) => ended,
        }
    };
    let closed = ended
        .and_then(|()| sys::end_cleanly(&downstream))
        .and_then(|()| sys::end_cleanly(&upstream));
    match closed {
        Ok(()) => End::Closed {
            up: up.get(),
            down: down.get(),
        },
        Err(error) => End::Reset(error),
    }
}

/// Comes back when both halves have ended, or with what broke. The half that ends first goes on
/// watching its source, which may still be reset.
async fn half(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    payload: Vec<u8>,
    moved: &Bytes,
    other_ended: &Cell<bool>,
) -> io::Result<()> {
    if !payload.is_empty() {
        Box::pin(flush(&from, &to, payload, moved)).await?;
    }
    relay(&mut from, &to, moved).await?;
    if other_ended.replace(true) {
        // Closing the sockets ends this half as well.
        return Ok(());
    }
    to.shutdown().await?;
    Err(reset(&from).await)
}

/// Moves data until the source has no more: copied, or spliced while there is plenty. What waits for
/// room and what splices is on the heap, so that an idle connection doesn't hold room for them.
async fn relay(from: &mut ReadHalf<'_>, to: &WriteHalf<'_>, moved: &Bytes) -> io::Result<()> {
    let mut pieces = 0;
    loop {
        match std::future::poll_fn(|cx| step(cx, from, to, moved)).await? {
            Step::Moved { large, rest } => {
                if !rest.is_empty() {
                    Box::pin(flush(from, to, rest, moved)).await?;
                }
                pieces = if large { pieces + 1 } else { 0 };
            }
            Step::End => return Ok(()),
        }
        if pieces == BULK {
            pieces = 0;
            if Box::pin(splice::relay(from, to, moved)).await? == splice::Ended::Source {
                return Ok(());
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
    from: &mut ReadHalf<'_>,
    to: &WriteHalf<'_>,
    moved: &Bytes,
) -> Poll<io::Result<Step>> {
    SHARED.with_borrow_mut(|buffer| {
        let mut read = ReadBuf::new(buffer);
        ready!(Pin::new(from).poll_read(cx, &mut read))?;
        if read.filled().is_empty() {
            return Poll::Ready(Ok(Step::End));
        }
        let large = read.filled().len() >= splice::SMALL;
        let rest = write_some(to, read.filled(), moved)?.to_vec();
        Poll::Ready(Ok(Step::Moved { large, rest }))
    })
}

/// Writes what fits; returns the rest.
fn write_some<'a>(to: &WriteHalf<'_>, bytes: &'a [u8], moved: &Bytes) -> io::Result<&'a [u8]> {
    let written = match to.try_write(bytes) {
        Ok(written) => written,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(error),
    };
    moved.add(written);
    Ok(bytes.get(written..).unwrap_or_default())
}

/// Waits until all is written. Nobody reads the source meanwhile, so its reset is watched for.
async fn flush(
    from: &ReadHalf<'_>,
    to: &WriteHalf<'_>,
    bytes: Vec<u8>,
    moved: &Bytes,
) -> io::Result<()> {
    let write_all = async {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            to.writable().await?;
            rest = write_some(to, rest, moved)?;
        }
        Ok(())
    };
    match select(std::pin::pin!(write_all), std::pin::pin!(reset(from))).await {
        Either::Left((written, _)) => written,
        Either::Right((error, _)) => Err(error),
    }
}

/// Comes back when the connection is reset.
pub async fn reset(from: &ReadHalf<'_>) -> io::Error {
    if let Err(error) = from.ready(Interest::ERROR).await {
        return error;
    }
    match from.as_ref().take_error() {
        Ok(Some(error)) | Err(error) => error,
        Ok(None) => io::ErrorKind::ConnectionReset.into(),
    }
}
