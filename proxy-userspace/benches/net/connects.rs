//! Short connections: connect, header and request, reply, end.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use socket2::SockRef;

use crate::app;
use crate::dial::Dialer;
use crate::usage::Usage;
use crate::window::{Phase, Spent, Window};

const CLIENTS: usize = 8;
const LENGTH: usize = 64;

/// How a connection ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// By the balancer's reset, as soon as it has the reply.
    Reset,
    /// By a FIN of each side. The app's comes first, so TIME_WAIT is where it doesn't take the
    /// balancer's ports.
    Fin,
}

/// What is counted is connections.
pub fn run(dialer: &Dialer, close: Close, usage: &Usage, window: Window) -> Result<Spent> {
    let (phase, done, failed) = (Phase::default(), AtomicU64::new(0), AtomicU64::new(0));
    let spent = thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                dialer.place.settle();
                while !phase.is_over() {
                    match once(dialer, close) {
                        Ok(()) => done.fetch_add(1, Relaxed),
                        Err(_) => failed.fetch_add(1, Relaxed),
                    };
                }
            });
        }
        let spent = window.measure(&phase, usage, || done.load(Relaxed));
        phase.end();
        spent
    })?;
    let (done, failed) = (done.into_inner(), failed.into_inner());
    ensure!(
        failed * 100 <= done,
        "{failed} connections failed, {done} did not"
    );
    Ok(spent)
}

/// One after the other, from any thread.
pub fn in_turn(dialer: &Dialer, count: usize) -> io::Result<()> {
    dialer
        .place
        .enter(|| (0..count).try_for_each(|_| once(dialer, Close::Fin)))
}

fn once(dialer: &Dialer, close: Close) -> io::Result<()> {
    let wish = match close {
        Close::Reset => app::ECHO,
        Close::Fin => app::ONCE,
    };
    let mut stream = dialer.dial(&[wish; LENGTH])?;
    let mut reply = [0; LENGTH];
    stream.read_exact(&mut reply)?;
    if close == Close::Reset {
        return SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
    match stream.read(&mut reply)? {
        0 => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
