//! Ping-pongs of 64 bytes: how long one takes, and how many there are in a second.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use crate::app;
use crate::dial::Dialer;
use crate::usage::Usage;
use crate::window::{Phase, Spent, Window};

pub const THREADS: usize = 2;
pub const MESSAGE: [u8; 64] = [app::ECHO; 64];

/// What was spent, and each round trip in nanoseconds, sorted.
pub fn run(
    dialer: &Dialer,
    count: usize,
    usage: &Usage,
    window: Window,
) -> Result<(Spent, Vec<u64>)> {
    let mut streams = dialer.dial_all(count, &MESSAGE).context("connecting")?;
    greet(&mut streams)?;
    shared_out(&mut streams, ping_all, usage, window)
}

/// By all threads, each of which has its share and returns how long each round trip took.
pub fn shared_out<T: Send>(
    all: &mut [T],
    ping: impl Fn(&mut [T], &Phase) -> io::Result<Vec<u64>> + Sync,
    usage: &Usage,
    window: Window,
) -> Result<(Spent, Vec<u64>)> {
    let (phase, ping) = (Phase::default(), &ping);
    let share = all.len().div_ceil(THREADS);
    let (spent, times) = thread::scope(|scope| {
        let each = all.chunks_mut(share);
        let phase = &phase;
        let threads: Vec<_> = each
            .map(|share| scope.spawn(move || ping(share, phase)))
            .collect();
        let spent = window.measure(phase, usage, || 0);
        let times = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"));
        (spent, times.collect::<io::Result<Vec<_>>>())
    });
    let mut times = times?.concat();
    times.sort_unstable();
    Ok((spent?, times))
}

/// Reads the answer to each connection's first message.
pub fn greet(streams: &mut [TcpStream]) -> io::Result<()> {
    streams
        .iter_mut()
        .try_for_each(|stream| stream.read_exact(&mut [0; MESSAGE.len()]))
}

fn ping_all(streams: &mut [TcpStream], phase: &Phase) -> io::Result<Vec<u64>> {
    match streams {
        [stream] => ping_one(stream, phase),
        streams => ping_many(streams, phase),
    }
}

fn ping_one(stream: &mut TcpStream, phase: &Phase) -> io::Result<Vec<u64>> {
    let mut times = Vec::with_capacity(1 << 16);
    while !phase.is_over() {
        let start = Instant::now();
        stream.write_all(&MESSAGE)?;
        stream.read_exact(&mut [0; MESSAGE.len()])?;
        note(&mut times, start, phase);
    }
    Ok(times)
}

fn ping_many(streams: &mut [TcpStream], phase: &Phase) -> io::Result<Vec<u64>> {
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut started = Vec::new();
    for (number, stream) in streams.iter_mut().enumerate() {
        epoll::add(
            &poll,
            &*stream,
            EventData::new_u64(number as u64),
            EventFlags::IN,
        )?;
        started.push(Instant::now());
        stream.write_all(&MESSAGE)?;
    }
    let mut times = Vec::with_capacity(1 << 18);
    let mut events = Vec::with_capacity(streams.len());
    while !phase.is_over() {
        epoll::wait(&poll, spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            let number = usize::try_from(event.data.u64()).unwrap_or_default();
            streams[number].read_exact(&mut [0; MESSAGE.len()])?;
            note(&mut times, started[number], phase);
            started[number] = Instant::now();
            streams[number].write_all(&MESSAGE)?;
        }
    }
    Ok(times)
}

pub fn note(times: &mut Vec<u64>, start: Instant, phase: &Phase) {
    if phase.is_measured() {
        times.push(nanoseconds(start.elapsed()));
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// In microseconds; `share` is 0.5 for the median.
pub fn percentile(sorted: &[u64], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length"
    )]
    let at = (sorted.len() as f64 * share) as usize;
    sorted
        .get(at)
        .map_or(f64::NAN, |&time| time as f64 / 1000.0)
}
