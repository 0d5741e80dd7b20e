//! What an uplink's other end gets to see that it never should: packets from or to a steer address, ARP
//! in the name of one, and packets from or to a client that its balancer stands for, or a container.
//! Whoever watches can't forget to ask: what has leaked by the time that nobody watches any more fails the row.

use std::io;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use socket2::Socket;

use super::Lab;
use super::addr::{CLIENT, CONTAINERS, CROWD, OTHER_CLIENT, Pair};
use super::netns::Netns;
use super::packet::{Packet, TCP};
use super::raw;

/// All that steer addresses are taken from.
const STEER: [&str; 2] = ["169.254.80.0/24", "fd74:7275:6570::/48"];

/// Whom balancers speak for.
const CLIENTS: [Pair; 2] = [CLIENT, OTHER_CLIENT];

/// Looks at every packet that comes into a namespace, by whichever device.
pub struct Leaks {
    stop: Arc<AtomicBool>,
    /// Until somebody has asked.
    looking: Option<JoinHandle<Result<Seen>>>,
}

#[derive(Default)]
struct Seen {
    packets: usize,
    /// Whether it is of IPv4, and what it is.
    leaks: Vec<(bool, String)>,
}

impl Leaks {
    /// Of the uplinks that `beyond` is the other end of. Nobody may speak as one of [`CLIENTS`] or of a [`CROWD`]
    /// but a balancer on his behalf.
    pub fn watch(beyond: &Netns) -> Result<Self> {
        let socket = raw::tap_ingress(beyond)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        // None where clients are by themselves.
        let of_clients = beyond.enter(|| if_nametoindex("client").ok());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let looking = Some(thread::spawn(move || look(&socket, of_clients, &stopped)));
        Ok(Self { stop, looking })
    }

    /// Fails if anything has leaked up to now.
    pub fn saw_none(self) -> Result<()> {
        self.saw_none_of(|_, _| true)
    }

    /// The same, but for what comes from this address.
    pub fn saw_none_but_from(self, source: IpAddr) -> Result<()> {
        let source = format!("{source} ");
        self.saw_none_of(|_, leak| !leak.starts_with(&source))
    }

    /// The same, but IPv6 isn't looked at.
    pub fn saw_no_ipv4(self) -> Result<()> {
        self.saw_none_of(|is_ipv4, _| is_ipv4)
    }

    fn saw_none_of(mut self, counts: impl Fn(bool, &str) -> bool) -> Result<()> {
        let seen = self.stop()?.expect("nobody asks twice");
        ensure!(seen.packets > 0, "the capture saw nothing at all");
        none_of(seen, counts)
    }

    /// What it has seen, unless somebody has asked before.
    fn stop(&mut self) -> Result<Option<Seen>> {
        self.stop.store(true, Ordering::Relaxed);
        let looking = self.looking.take();
        looking
            .map(|looking| looking.join().expect("looking doesn't panic"))
            .transpose()
    }
}

impl Drop for Leaks {
    fn drop(&mut self) {
        let seen = self.stop().map(Option::unwrap_or_default);
        if let Err(error) = seen.and_then(|seen| none_of(seen, |_, _| true)) {
            // A second panic would hide the first one, and abort.
            if thread::panicking() {
                eprintln!("{error:#}");
            } else {
                panic!("{error:#}");
            }
        }
    }
}

fn none_of(seen: Seen, counts: impl Fn(bool, &str) -> bool) -> Result<()> {
    let leaks = seen.leaks.into_iter();
    let leaks = leaks.filter_map(|(is_ipv4, leak)| counts(is_ipv4, &leak).then_some(leak));
    let leaks: Vec<_> = leaks.collect();
    let count = leaks.len();
    let some = leaks[..count.min(8)].join(", ");
    ensure!(count == 0, "{count} packets leaked: {some}, …");
    Ok(())
}

/// A lab whose uplinks are watched for as long as it is there.
pub struct Watched {
    /// The first to go: what the lab's programs leave isn't what they have leaked.
    _leaks: Leaks,
    lab: Lab,
}

impl Watched {
    pub fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let _leaks = Leaks::watch(&lab.edge)?;
        Ok(Self { _leaks, lab })
    }
}

impl Deref for Watched {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        &self.lab
    }
}

/// Addresses that packets may not have.
struct Hidden {
    steer: [IpNet; 2],
    containers: [IpNet; 2],
    crowd: [IpNet; 2],
}

impl Hidden {
    fn new() -> Self {
        let nets = |all: [&str; 2]| all.map(|net| net.parse().expect("a network"));
        Self {
            steer: nets(STEER),
            containers: nets(CONTAINERS),
            crowd: nets(CROWD),
        }
    }

    fn is_steer(&self, address: IpAddr) -> bool {
        self.steer.iter().any(|net| net.contains(&address))
    }

    /// Nobody's beyond the host.
    fn is_inner(&self, address: IpAddr) -> bool {
        self.is_steer(address) || self.containers.iter().any(|net| net.contains(&address))
    }

    fn is_client(&self, address: IpAddr) -> bool {
        let is_one = |client: &Pair| [client.v4, client.v6].contains(&address);
        CLIENTS.iter().any(is_one) || self.crowd.iter().any(|net| net.contains(&address))
    }
}

/// Until `stop`, and then until nothing is left to read. By the device of clients themselves, they may send.
fn look(socket: &Socket, of_clients: Option<u32>, stop: &AtomicBool) -> Result<Seen> {
    let hidden = Hidden::new();
    let mut seen = Seen::default();
    let mut head = [0; 128];
    loop {
        let last = stop.load(Ordering::Relaxed);
        let (length, device) = match raw::receive(socket, &mut head) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && last => return Ok(seen),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A device went down, which says nothing of the others.
            Err(error) if error.raw_os_error() == Some(libc::ENETDOWN) => continue,
            Err(error) => return Err(error).context("reading packets"),
        };
        let packet = &head[..length];
        if let Some(asker) = arp_sender(packet).filter(|asker| hidden.is_steer(*asker)) {
            seen.leaks.push((true, format!("ARP of {asker}")));
        }
        let Some(packet) = Packet::parse(packet) else {
            continue;
        };
        seen.packets += 1;
        let is_spoken_for = hidden.is_client(packet.from) && Some(device) != of_clients;
        let is_inner = hidden.is_inner(packet.from) || hidden.is_inner(packet.to);
        if is_inner || is_spoken_for || hidden.is_client(packet.to) {
            let leak = (packet.from.is_ipv4(), describe(&packet));
            seen.leaks.push(leak);
        }
    }
}

/// In whose name somebody asks, or tells, by ARP.
fn arp_sender(packet: &[u8]) -> Option<IpAddr> {
    const OF_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    const SENDER: usize = 14;
    let sender = packet.get(SENDER..)?.first_chunk::<4>()?;
    packet.starts_with(&OF_IPV4).then(|| IpAddr::from(*sender))
}

/// Protocol and, for TCP, flags: says in a failure what kind of packet it was.
fn describe(packet: &Packet<'_>) -> String {
    let Packet {
        from, to, protocol, ..
    } = packet;
    match packet.tcp_flags() {
        Some(flags) => format!("{from} > {to} protocol {TCP} flags {flags:#04x}"),
        None => format!("{from} > {to} protocol {protocol}"),
    }
}
