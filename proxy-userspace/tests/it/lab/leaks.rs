//! What an uplink's other end gets to see that it never should: packets from or to a steer address, ARP
//! in the name of one, and packets from or to a client that its balancer stands for, or a container.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use socket2::Socket;

use super::addr::{CLIENT, CONTAINERS};
use super::netns::Netns;
use super::packet::{Packet, TCP};
use super::raw;

/// All that steer addresses are taken from.
const STEER: [&str; 2] = ["169.254.80.0/24", "fd74:7275:6570::/48"];

/// Looks at every packet that comes into a namespace, by whichever device.
pub struct Leaks {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<Result<Seen>>,
}

#[derive(Default)]
struct Seen {
    packets: usize,
    /// Whether it is of IPv4, and what it is.
    leaks: Vec<(bool, String)>,
}

impl Leaks {
    /// Of the uplinks that `beyond` is the other end of. Nobody may connect from [`CLIENT`] but a
    /// balancer on its behalf.
    pub fn watch(beyond: &Netns) -> Result<Self> {
        let socket = raw::tap_ingress(beyond)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        // None where clients are by themselves.
        let of_clients = beyond.enter(|| if_nametoindex("client").ok());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let looking = thread::spawn(move || look(&socket, of_clients, &stopped));
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

    fn saw_none_of(self, counts: impl Fn(bool, &str) -> bool) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.looking.join().expect("looking doesn't panic")?;
        ensure!(seen.packets > 0, "the capture saw nothing at all");
        let leaks = seen.leaks.into_iter();
        let leaks = leaks.filter_map(|(is_ipv4, leak)| counts(is_ipv4, &leak).then_some(leak));
        let leaks: Vec<_> = leaks.collect();
        let count = leaks.len();
        let some = leaks[..count.min(8)].join(", ");
        ensure!(count == 0, "{count} packets leaked: {some}, …");
        Ok(())
    }
}

/// Until `stop`, and then until nothing is left to read. By the device of clients themselves, they may send.
fn look(socket: &Socket, of_clients: Option<u32>, stop: &AtomicBool) -> Result<Seen> {
    let nets = |all: [&str; 2]| all.map(|net| net.parse::<IpNet>().expect("a network"));
    let (steer, containers) = (nets(STEER), nets(CONTAINERS));
    let is_of = |nets: &[IpNet; 2], address| nets.iter().any(|net| net.contains(&address));
    let is_steer = |address: IpAddr| is_of(&steer, address);
    let is_clients = |address: IpAddr| [CLIENT.v4, CLIENT.v6].contains(&address);
    let is_hidden = |address| is_steer(address) || is_of(&containers, address);
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
        if let Some(asker) = arp_sender(packet).filter(|asker| is_steer(*asker)) {
            seen.leaks.push((true, format!("ARP of {asker}")));
        }
        let Some(packet) = Packet::parse(packet) else {
            continue;
        };
        seen.packets += 1;
        let is_spoken_for = is_clients(packet.from) && Some(device) != of_clients;
        let is_hidden = [packet.from, packet.to].into_iter().any(is_hidden);
        if is_hidden || is_spoken_for || is_clients(packet.to) {
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
