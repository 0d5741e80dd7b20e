//! The same connections by both paths: headers of all kinds, right and wrong ones, cut anywhere. What
//! the app hears and whom it sees is the same, or both paths refuse it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;

use anyhow::{Context, Result, ensure};

use super::Family;
use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, BALANCER, FRONT, FRONT_PORT, HOST, LOOPBACK, Pair, TRUEPEER_PORT,
};
use crate::lab::app::Echo;
use crate::lab::header::{Version, v2, v2_raw};
use crate::lab::random::Random;
use crate::lab::scale::scaled;

const SEED: u64 = 0x6469_6666_6572;
/// Where the daemon listens that is told to relay.
const OTHER_PORT: u16 = TRUEPEER_PORT + 100;
/// The balancer's.
const FIRST_PORT: u16 = 2000;

#[test]
fn v4() -> Result<()> {
    both_paths_agree(Pair::v4)
}

#[test]
fn v6() -> Result<()> {
    both_paths_agree(Pair::v6)
}

fn both_paths_agree(family: Family) -> Result<()> {
    let lab = Lab::new()?;
    everybody_is_behind_the_balancer(&lab)?;
    let _app = Echo::greeting(&lab.host, family(LOOPBACK, APP_PORT))?;
    let _direct = lab.truepeer().start()?;
    let daemon = lab.truepeer().instance_suffix("-daemon").by_daemon();
    let _daemon = daemon.listen(HOST.both(OTHER_PORT)).start()?;
    eprintln!("seed {SEED:#x}");
    let mut random = Random::new(SEED);
    let count: u16 = scaled(200, 20_000);
    let mut served = 0;
    for port in (FIRST_PORT..).take(count.into()) {
        let script = Script::make(&mut random, family, port);
        let play =
            |port| Ok::<_, anyhow::Error>(of_any_port(script.play(&lab, family(HOST, port))?));
        let (direct, daemon) = (play(TRUEPEER_PORT)?, play(OTHER_PORT)?);
        ensure!(
            direct == daemon,
            "port {port}, {script:02x?}: {} and {} bytes, {:?} and {:?}",
            direct.len(),
            daemon.len(),
            first_line(&direct),
            first_line(&daemon)
        );
        if !direct.is_empty() {
            let is_whole = script.is_damaged || direct.ends_with(&script.payload);
            ensure!(is_whole, "port {port}, {script:02x?}: another payload");
            served += 1;
        }
    }
    let opened = lab.shown("status")?["kernel"]["direct_opened"].take();
    let opened = opened.as_u64().context("a count")?;
    // Otherwise it compares nothing.
    ensure!(opened > u64::from(count) / 4, "{opened} were direct");
    ensure!(
        served > opened && served < count.into(),
        "{served} were served"
    );
    Ok(())
}

/// A damaged header may name a neighbour that isn't there: the host would ask for it, and what is for
/// it would wait for an answer instead of leaving.
pub fn everybody_is_behind_the_balancer(lab: &Lab) -> Result<()> {
    lab.host
        .ip("route add 198.51.100.0/25 via 198.51.100.1 dev edge onlink
         route add 198.51.100.128/25 via 198.51.100.1 dev edge onlink
         route add 2001:db8:e::/65 via fe80::1 dev edge
         route add 2001:db8:e:0:8000::/65 via fe80::1 dev edge")
}

/// A client that is the host's own comes from another port than it says.
fn of_any_port(mut heard: Vec<u8>) -> Vec<u8> {
    for own in HOST.both(0) {
        let own = own.to_string();
        let start = format!("you are {}", own.trim_end_matches('0'));
        if heard.starts_with(start.as_bytes()) {
            let line = heard.iter().position(|byte| *byte == b'\n');
            heard.drain(start.len()..line.unwrap_or(heard.len()));
        }
    }
    heard
}

fn first_line(heard: &[u8]) -> String {
    let line = heard.split(|byte| *byte == b'\n').next();
    String::from_utf8_lossy(line.unwrap_or_default()).into_owned()
}

/// What a balancer says.
struct Script {
    /// Its port, of which a header that names no client tells the app.
    balancer: SocketAddr,
    header: Vec<u8>,
    /// It may mean something else, or more or less of what follows may belong to it.
    is_damaged: bool,
    payload: Vec<u8>,
    /// Where one write ends and the next one starts.
    cuts: Vec<usize>,
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { header, cuts, .. } = self;
        let length = self.payload.len();
        write!(
            f,
            "{header:02x?} cut at {cuts:?}, with {length} bytes behind it"
        )
    }
}

impl Script {
    fn make(random: &mut Random, family: Family, port: u16) -> Self {
        let mut header = header(random, family, port);
        let is_damaged = random.happens(250);
        if is_damaged {
            damage(random, &mut header);
        }
        let length = *random.pick(&[0, 1, 2, 100, 1000, 1420, 20_000]) + random.below(500);
        let payload: Vec<u8> = std::iter::repeat_with(|| random.byte())
            .take(length)
            .collect();
        let whole = header.len() + payload.len();
        let count = *random.pick(&[0, 0, 0, 1, 2]);
        let mut cuts: Vec<_> = std::iter::repeat_with(|| {
            let near = random.happens(700);
            random.below(if near { header.len() + 2 } else { whole + 1 })
        })
        .take(count)
        .filter(|at| *at < whole)
        .collect();
        cuts.sort_unstable();
        Self {
            balancer: family(BALANCER, port),
            header,
            is_damaged,
            payload,
            cuts,
        }
    }

    /// Returns all that comes back: of an app that is reached, a line that says whom it sees, and an
    /// echo; of none, nothing.
    fn play(&self, lab: &Lab, service: SocketAddr) -> Result<Vec<u8>> {
        let stream = lab.edge.connect_from(self.balancer, service);
        let stream = stream.with_context(|| format!("connecting from {}", self.balancer))?;
        thread::scope(|scope| {
            scope.spawn(|| self.say(&stream));
            Ok(hear(&stream))
        })
    }

    /// Whoever is refused may not hear the end of it.
    fn say(&self, mut stream: &TcpStream) {
        let all = [&self.header[..], &self.payload].concat();
        let mut from = 0;
        for &to in self.cuts.iter().chain([&all.len()]) {
            if stream.write_all(&all[from..to]).is_err() {
                return;
            }
            from = to;
        }
        let _ = stream.shutdown(Shutdown::Write);
    }
}

/// A connection that is cut off has nothing to say.
fn hear(mut stream: &TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard) {
        Ok(_) => heard,
        Err(_) => Vec::new(),
    }
}

fn header(random: &mut Random, family: Family, port: u16) -> Vec<u8> {
    let front = family(FRONT, FRONT_PORT);
    let client = client(random, front);
    match random.word() % 12 {
        0..3 => Version::V1.header(client, front),
        3..6 => Version::V2.header(client, front),
        6..9 => v2(0x21, client, front, &tlvs(random)),
        9 => v2_raw(
            0x20,
            *random.pick(&[0, 0x11, 0x21]),
            &vec![0; random.below(40)],
        ),
        10 => b"PROXY UNKNOWN\r\n".to_vec(),
        _ => {
            // One that the programs can't believe, or nobody.
            let client = family(*random.pick(&[HOST, LOOPBACK]), port);
            random.pick(&Version::BOTH).header(client, front)
        }
    }
}

/// Of its own each time: a damaged header doesn't name another one's.
pub fn client(random: &mut Random, like: SocketAddr) -> SocketAddr {
    let [a, b, c, d, e, f, ..] = random.next().to_be_bytes();
    let port = u16::from_be_bytes([d, e]).max(1);
    let ip = match like {
        SocketAddr::V4(_) => Ipv4Addr::new(10, a, b, c).into(),
        SocketAddr::V6(_) => {
            let [a, b, c] = [a, b, c].map(u16::from);
            Ipv6Addr::new(0x2001, 0xdb8, 0xf, a, b, c, f.into(), 1).into()
        }
    };
    SocketAddr::new(ip, port)
}

/// NOOP, an authority, an id, a CRC that is wrong, kinds for experiments, and TLS with TLVs of its own.
pub fn tlvs(random: &mut Random) -> Vec<u8> {
    let mut tlvs = Vec::new();
    for _ in 0..=random.below(3) {
        match *random.pick(&[4, 4, 2, 5, 0xea, 0xf0, 3, 0x20]) {
            3 => tlvs.extend([3, 0, 4, b'x', b'x', b'x', b'x']),
            0x20 => tlvs.extend(ssl(random)),
            kind => tlvs.extend(tlv(random, kind)),
        }
    }
    tlvs
}

/// One in four has a length that may not be its own.
fn ssl(random: &mut Random) -> Vec<u8> {
    let mut ssl = vec![0x20, 0, 0, 1, 0, 0, 0, 0];
    for _ in 0..random.below(3) {
        let kind = *random.pick(&[0x21, 0x23, 0x20, 3]);
        ssl.extend(tlv(random, kind));
    }
    let length = match random.below(4) {
        0 => random.below(ssl.len() + 4),
        _ => ssl.len() - 3,
    };
    ssl[2] = u8::try_from(length).expect("two of below 103 at most");
    ssl
}

fn tlv(random: &mut Random, kind: u8) -> Vec<u8> {
    let length = random.below(100);
    let mut tlv = vec![kind, 0, u8::try_from(length).expect("below 100")];
    tlv.resize(3 + length, b'x');
    tlv
}

pub fn damage(random: &mut Random, header: &mut Vec<u8>) {
    let place = random.below(header.len());
    match random.word() % 5 {
        0 => header[place] = random.byte(),
        1 => header[place] ^= 1 << random.below(8),
        2 => header[place] = *random.pick(b"0 9:.\r\n"),
        3 => header.insert(place, *random.pick(b"0 9:.\r\n")),
        _ => drop(header.remove(place)),
    }
}
