//! What an uplink's other end gets to see.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use socket2::{Domain, Socket, Type};

use crate::lab::netns::Netns;

/// `ETH_P_ALL` of linux/if_ether.h, in network order as packet(7) wants it.
const EVERYTHING: i32 = 0x0003_u16.to_be() as i32;
/// All that steer addresses are taken from.
const STEER: [&str; 2] = ["169.254.80.0/24", "fd74:7275:6570::/48"];

/// Looks at every packet on every device of a namespace.
pub struct Capture {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<Result<Seen>>,
}

#[derive(Default)]
struct Seen {
    packets: usize,
    leaks: Vec<String>,
}

impl Capture {
    pub fn start(netns: &Netns) -> Result<Self> {
        // DGRAM: packets without the header of the link layer
        let open = || Socket::new(Domain::PACKET, Type::DGRAM, Some(EVERYTHING.into()));
        let socket = netns.enter(open).context("listening to all packets")?;
        // Bulk data comes faster than a busy machine runs this thread. Less than asked for is enough.
        socket.set_recv_buffer_size(16 << 20)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let looking = thread::spawn(move || look(socket, &stopped));
        Ok(Self { stop, looking })
    }

    /// Fails if anything went from or to a steer address up to now.
    pub fn saw_no_leak(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.looking.join().expect("looking doesn't panic")?;
        ensure!(seen.packets > 0, "the capture saw nothing at all");
        let (count, some) = (seen.leaks.len(), seen.leaks.iter().take(8));
        let some: Vec<_> = some.map(String::as_str).collect();
        ensure!(count == 0, "{count} packets leaked: {}, …", some.join(", "));
        Ok(())
    }
}

/// Until `stop`, and then until nothing is left to read.
fn look(mut socket: Socket, stop: &AtomicBool) -> Result<Seen> {
    let steer = STEER.map(|net| net.parse::<IpNet>().expect("a network"));
    let is_steer = |address: &IpAddr| steer.iter().any(|net| net.contains(address));
    let mut seen = Seen::default();
    let mut head = [0; 64];
    loop {
        let last = stop.load(Ordering::Relaxed);
        match socket.read(&mut head) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && last => return Ok(seen),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            // The device went down, or an interrupt.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("reading packets"),
        }
        let Some((from, to)) = addresses(&head) else {
            continue;
        };
        seen.packets += 1;
        if is_steer(&from) || is_steer(&to) {
            seen.leaks.push(describe(&head, from, to));
        }
    }
}

fn addresses(packet: &[u8; 64]) -> Option<(IpAddr, IpAddr)> {
    let four = |at: usize| packet[at..].first_chunk::<4>().copied().map(Ipv4Addr::from);
    let sixteen = |at: usize| {
        packet[at..]
            .first_chunk::<16>()
            .copied()
            .map(Ipv6Addr::from)
    };
    match packet[0] >> 4 {
        4 => Some((four(12)?.into(), four(16)?.into())),
        6 => Some((sixteen(8)?.into(), sixteen(24)?.into())),
        _ => None,
    }
}

/// Protocol and, for TCP, flags: says in a failure what kind of packet it was.
fn describe(packet: &[u8; 64], from: IpAddr, to: IpAddr) -> String {
    let (protocol, flags) = match packet[0] >> 4 {
        4 => (packet[9], packet[33]),
        _ => (packet[6], packet[53]),
    };
    format!("{from} > {to} protocol {protocol} flags {flags:#04x}")
}
