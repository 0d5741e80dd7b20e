//! Short connections: connect, header and request in one segment, reply, end. The app closes
//! first, so TIME_WAIT is where it doesn't take the balancer's ports.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use anyhow::{Result, ensure};

use crate::app;
use crate::dial::Dialer;
use crate::usage::Usage;
use crate::window::{Phase, Spent, Window};

const CLIENTS: usize = 8;
const REQUEST: [u8; 64] = [app::ONCE; 64];

/// What is counted is connections.
pub fn run(dialer: &Dialer, usage: &Usage, window: Window) -> Result<Spent> {
    let (phase, done, failed) = (Phase::default(), AtomicU64::new(0), AtomicU64::new(0));
    let spent = thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                dialer.place.settle();
                while !phase.is_over() {
                    match once(dialer) {
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
        .enter(|| (0..count).try_for_each(|_| once(dialer)))
}

fn once(dialer: &Dialer) -> io::Result<()> {
    let mut stream = dialer.dial(&REQUEST)?;
    let mut reply = [0; REQUEST.len()];
    stream.read_exact(&mut reply)?;
    match stream.read(&mut reply)? {
        0 => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
