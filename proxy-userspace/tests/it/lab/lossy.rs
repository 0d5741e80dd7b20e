//! A wire between two namespaces that does to TCP segments what bad networks do: loses some, doubles
//! some, lets others overtake some, or changes all of them. Whatever else goes over it arrives.
//!
//! It is two devices of this process and a thread between them. The same seed makes the same choices,
//! segment by segment. What it holds back is bounded, in number and in time.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::netns::Netns;
use super::packet::{Packet, TCP};
use super::random::Random;
use super::tuntap::{self, Layer};

/// The largest that a device hands out: neither kind is asked for segments of more than its MTU.
const LARGEST: usize = 1 << 16;
/// A late segment comes after this many others, or after this long if no others come.
const OVERTAKEN_BY: u8 = 3;
const LATE: Duration = Duration::from_millis(4);
const HELD_MOST: usize = 64;

/// In how many of a thousand cases each befalls a segment, either way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub lost: u32,
    pub doubled: u32,
    pub late: u32,
}

/// A packet of TCP in, and those that come out of the wire instead.
pub type Mangle = fn(&[u8]) -> Vec<Vec<u8>>;

/// What a wire is like.
#[derive(Clone, Copy)]
pub struct Nature {
    pub layer: Layer,
    pub faults: Faults,
    /// Of what the first end sends.
    pub mangle: Option<Mangle>,
    pub seed: u64,
}

impl Nature {
    /// One to which nothing happens.
    pub const fn sound(layer: Layer) -> Self {
        Self {
            layer,
            faults: Faults {
                lost: 0,
                doubled: 0,
                late: 0,
            },
            mangle: None,
            seed: 1,
        }
    }
}

/// How often each has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub passed: u64,
    pub lost: u64,
    pub doubled: u64,
    pub late: u64,
    pub mangled: u64,
}

#[derive(Default)]
struct Counters {
    passed: AtomicU64,
    lost: AtomicU64,
    doubled: AtomicU64,
    late: AtomicU64,
    mangled: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Its devices go when it is dropped.
pub struct Lossy {
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    moving: Option<JoinHandle<()>>,
}

impl Lossy {
    /// Makes a device at each end, in a namespace and under a name; addresses are the caller's affair.
    pub fn join(ends: [(&Netns, &str); 2], nature: Nature) -> Result<Self> {
        let [first, second] = ends.map(|(netns, name)| tuntap::make(netns, name, nature.layer));
        let (first, second) = (first?, second?);
        let counters = Arc::new(Counters::default());
        let back = Nature {
            mangle: None,
            seed: !nature.seed,
            ..nature
        };
        let copies = (first.try_clone()?, second.try_clone()?);
        let ways = [
            Way::new(first, copies.1, nature, &counters),
            Way::new(second, copies.0, back, &counters),
        ];
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let moving = thread::spawn(move || move_on(ways, &stopped));
        Ok(Self {
            counters,
            stop,
            moving: Some(moving),
        })
    }

    pub fn counted(&self) -> Counted {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Counted {
            passed: read(&counters.passed),
            lost: read(&counters.lost),
            doubled: read(&counters.doubled),
            late: read(&counters.late),
            mangled: read(&counters.mangled),
        }
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(moving) = self.moving.take() {
            // A panic there has been printed already, and a wire that is cut fails its test.
            let _ = moving.join();
        }
    }
}

fn move_on(mut ways: [Way; 2], stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let held = ways.iter().any(|way| !way.held.is_empty());
        wait(&ways, Duration::from_millis(if held { 1 } else { 20 }));
        for way in &mut ways {
            way.move_on();
        }
    }
}

/// Until there is something to read, or the time is over.
fn wait(ways: &[Way; 2], time: Duration) {
    let [first, second] = ways.each_ref().map(|way| &way.from);
    let mut fds = [
        PollFd::new(first, PollFlags::IN),
        PollFd::new(second, PollFlags::IN),
    ];
    let time = Timespec::try_from(time).expect("a short time");
    // An interrupt ends it early, which does no harm.
    let _ = poll(&mut fds, Some(&time));
}

/// One direction.
struct Way {
    from: File,
    to: File,
    nature: Nature,
    random: Random,
    held: VecDeque<Held>,
    counters: Arc<Counters>,
}

struct Held {
    frame: Vec<u8>,
    others: u8,
    until: Instant,
}

impl Way {
    fn new(from: File, to: File, nature: Nature, counters: &Arc<Counters>) -> Self {
        Self {
            from,
            to,
            nature,
            random: Random::new(nature.seed),
            held: VecDeque::new(),
            counters: Arc::clone(counters),
        }
    }

    fn move_on(&mut self) {
        let mut frame = vec![0; LARGEST];
        // An error is an empty device, or one that is down: there is nothing to read then either.
        while let Ok(length) = self.from.read(&mut frame) {
            let frame = &frame[..length];
            let packet = self.nature.layer.packet(frame);
            if Packet::parse(packet).is_some_and(|packet| packet.protocol == TCP) {
                self.segment(frame);
            } else {
                self.write(frame);
            }
        }
        self.release(|held| held.until <= Instant::now());
    }

    fn segment(&mut self, frame: &[u8]) {
        let Faults {
            lost,
            doubled,
            late,
        } = self.nature.faults;
        if self.random.happens(lost) {
            return count(&self.counters.lost);
        }
        if self.random.happens(late) && self.held.len() < HELD_MOST {
            count(&self.counters.late);
            return self.held.push_back(Held {
                frame: frame.to_vec(),
                others: OVERTAKEN_BY,
                until: Instant::now() + LATE,
            });
        }
        if self.random.happens(doubled) {
            count(&self.counters.doubled);
            self.pass(frame);
        }
        self.pass(frame);
        for held in &mut self.held {
            held.others = held.others.saturating_sub(1);
        }
        self.release(|held| held.others == 0);
    }

    fn release(&mut self, is_due: impl Fn(&Held) -> bool) {
        // In order of their coming, so the first is the first to go.
        while let Some(held) = self.held.pop_front_if(|held| is_due(held)) {
            self.pass(&held.frame);
        }
    }

    fn pass(&mut self, frame: &[u8]) {
        count(&self.counters.passed);
        let Some(mangle) = self.nature.mangle else {
            return self.write(frame);
        };
        let packet = self.nature.layer.packet(frame);
        let header = &frame[..frame.len() - packet.len()];
        let mangled = mangle(packet);
        if mangled != [packet] {
            count(&self.counters.mangled);
        }
        for packet in mangled {
            self.write(&[header, &packet].concat());
        }
    }

    /// A device that is down takes nothing, as a wire of copper wouldn't.
    fn write(&mut self, frame: &[u8]) {
        match self.to.write(frame) {
            Ok(_) => {}
            Err(error) if is_down(&error) => {}
            Err(error) => panic!("writing a frame of {} bytes: {error}", frame.len()),
        }
    }
}

fn is_down(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::EIO)
}

impl super::Lab {
    /// Puts such a wire in the place of the host's uplink. Its first end is the edge's.
    pub fn rewire_uplink(&self, nature: Nature) -> Result<Lossy> {
        // It may be a pair of cards, which can't be deleted.
        for (netns, device) in [(&self.edge, "host"), (&self.host, "edge")] {
            netns.ip(&format!(
                "link set {device} down
                 address flush dev {device}
                 link set {device} name spare"
            ))?;
        }
        let wire = Lossy::join([(&self.edge, "host"), (&self.host, "edge")], nature)?;
        self.address_uplink().context("addresses of the uplink")?;
        Ok(wire)
    }

    /// The same between clients and edge, for balancers that are one router away; their end is the
    /// first.
    pub fn rewire_clients(&self, nature: Nature) -> Result<Lossy> {
        self.client.ip("link del edge")?;
        let wire = Lossy::join([(&self.client, "edge"), (&self.edge, "client")], nature)?;
        self.address_clients().context("addresses of the clients")?;
        Ok(wire)
    }
}
