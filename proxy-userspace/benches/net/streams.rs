//! Bulk: as many bytes as go through.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::SockRef;

use crate::app::{self, App};
use crate::dial::Dialer;
use crate::usage::Usage;
use crate::window::{Phase, Spent, Window};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Up,
    Down,
}

const BUFFER: usize = 256 * 1024;

/// Runs `count` streams; what is counted is bytes at the receiving end.
pub fn run(
    dialer: &Dialer,
    (direction, count): (Direction, usize),
    app: &App,
    (usage, window, copy): (&Usage, Window, bool),
) -> Result<Spent> {
    let wish = match direction {
        Direction::Up => app::SINK,
        Direction::Down => app::FLOOD,
    };
    let streams = dialer.dial_all(count, &[wish]).context("connecting")?;
    let received = AtomicU64::new(0);
    let spent = thread::scope(|scope| {
        for stream in &streams {
            scope.spawn(|| match direction {
                Direction::Up => push(stream),
                Direction::Down => pull(stream, app::sink_flags(copy), &received),
            });
        }
        let spent = window.measure(&Phase::default(), usage, || match direction {
            Direction::Up => app.received(),
            Direction::Down => received.load(Relaxed),
        });
        for stream in &streams {
            // It fails where the other side has closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
        spent
    })?;
    for stream in streams {
        // A reset: what is still queued must not take the next contender's time.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    thread::sleep(Duration::from_millis(50));
    Ok(spent)
}

fn push(stream: &TcpStream) {
    let buffer = vec![1; BUFFER];
    while send(stream, &buffer, SendFlags::NOSIGNAL).is_ok() {}
}

fn pull(stream: &TcpStream, flags: RecvFlags, received: &AtomicU64) {
    let mut buffer = vec![0; BUFFER];
    while let Ok((_, got)) = recv(stream, &mut buffer[..], flags)
        && got > 0
    {
        received.fetch_add(got as u64, Relaxed);
    }
}
