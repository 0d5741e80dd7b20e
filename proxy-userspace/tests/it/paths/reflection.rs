//! From another link, nobody gets as far as a connection in an allowed balancer's name: what answers a
//! SYN goes where the balancer is.

use anyhow::{Context, Result, ensure};
use socket2::Socket;

use super::{CLIENT_PORT, Plan, Site, paths};
use crate::lab::addr::BALANCER;
use crate::lab::forge::{ACK, PSH, SYN, SYN_OPTIONS, Segment};
use crate::lab::header::Version;
use crate::lab::netns::Netns;
use crate::lab::packet::{Packet, TCP};
use crate::lab::poll;
use crate::lab::random::Random;
use crate::lab::scale::scaled;
use crate::lab::spray::Spray;
use crate::lab::{Lab, raw};

paths! {
    a_syn_from_another_link_is_answered_by_route;
    guesses_from_another_link_open_nothing;
}

/// A link of the host's that no balancer is behind.
pub struct Attacker {
    netns: Netns,
    pub spray: Spray,
}

impl Attacker {
    pub fn beside(lab: &Lab) -> Result<Self> {
        let netns = Netns::new("attacker")?;
        lab.host.ip(&format!(
            "link add side type veth peer name side netns {}
             link set side up addrgenmode none
             address add 192.0.2.2/24 dev side
             address add 2001:db8:2::2/64 dev side nodad",
            netns.path().display()
        ))?;
        netns.ip("link set side up addrgenmode none
             address add 192.0.2.1/24 dev side
             address add 2001:db8:2::1/64 dev side nodad")?;
        let spray = Spray::onto(&netns, "side", lab.host.mac("side")?)?;
        Ok(Self { netns, spray })
    }
}

/// In the balancer's name, from one of its ports.
fn forged(site: &Site, port: u16) -> Segment<'static> {
    Segment::between(site.of(BALANCER, port), site.service())
}

fn a_syn_from_another_link_is_answered_by_route(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let attacker = Attacker::beside(&site.lab)?;
    let at_the_attacker = raw::tap_ingress(&attacker.netns)?;
    let at_the_balancer = raw::tap_ingress(&site.lab.edge)?;
    attacker.spray.send((2000..2100).map(|port| Segment {
        number: port.into(),
        flags: SYN,
        options: SYN_OPTIONS,
        ..forged(&site, port)
    }))?;
    poll::until("an answer where the balancer is", || {
        Ok((answers(&at_the_balancer)? > 0).then_some(()))
    })?;
    assert_eq!(answers(&at_the_attacker)?, 0, "the attacker heard a number");
    site.warm(CLIENT_PORT).map(drop)
}

/// How many SYN-ACKs have come since the last look.
fn answers(socket: &Socket) -> Result<usize> {
    socket.set_nonblocking(true)?;
    let mut count = 0;
    let mut head = [0; 128];
    while let Ok(length) = std::io::Read::read(&mut &*socket, &mut head) {
        let packet = Packet::parse(&head[..length]).filter(|packet| packet.protocol == TCP);
        let flags = packet.and_then(|packet| packet.tcp_flags());
        count += usize::from(flags.is_some_and(|flags| flags & SYN != 0));
    }
    Ok(count)
}

/// Header and all, with numbers that nobody has said.
fn guesses_from_another_link_open_nothing(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let attacker = Attacker::beside(&site.lab)?;
    let header = site.header(Version::V2, CLIENT_PORT);
    let mut random = Random::new(2);
    let count = scaled(20_000, 10_000_000);
    let sent = attacker.spray.send((0..count).map(|guess| {
        let port = 2000 + u16::try_from(guess % 1000).expect("a small number");
        Segment {
            number: random.word(),
            acknowledged: random.word(),
            flags: ACK | PSH,
            payload: &header,
            ..forged(&site, port)
        }
    }))?;
    assert_eq!(sent, count);
    site.app.saw_nobody()?;
    let open = site.lab.counts()?["open"].take();
    ensure!(open == 0, "{open} are open");
    site.warm(CLIENT_PORT)
        .map(drop)
        .context("an honest balancer")
}
