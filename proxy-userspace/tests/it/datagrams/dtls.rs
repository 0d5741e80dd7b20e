//! DTLS by openssl, through a balancer that puts each kind of header on: the handshake and words each way.

use std::io::{PipeWriter, Write};
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Result, ensure};

use super::rows;
use super::site::{Plan, Site};
use crate::lab::addr::{APP_PORT, BALANCER, HOST};
use crate::lab::netns::Netns;
use crate::lab::pki::Pki;
use crate::lab::proc::Proc;
use crate::lab::udp_balancer::UdpBalancer;

rows! {
    by_one_socket_for_all;
    by_a_socket_connected_to_the_client;
}

/// Of the links that both sides think to have. With a header, what fills the first one's packets takes two, which
/// the daemon puts together: what is sent next must not overtake it, as a handshake of OpenSSL's can't go on then.
const MTUS: [&str; 2] = ["1500", "1400"];

/// With certificates of both sides, of which one takes several packets.
struct Peer {
    proc: Proc,
    input: PipeWriter,
}

impl Peer {
    fn start(netns: &Netns, command: Command) -> Result<Self> {
        let (proc, input) = netns.spawn_listening(command)?;
        Ok(Self { proc, input })
    }

    fn server(pki: &Pki, netns: &Netns, at: SocketAddr, [mtu, more]: [&[&str]; 2]) -> Result<Self> {
        let mut command = Command::new("openssl");
        command.args(["s_server", "-dtls1_2", "-accept", &at.to_string()]);
        command.arg("-cert").arg(pki.path("front.crt"));
        command.arg("-key").arg(pki.path("front.key"));
        command.arg("-CAfile").arg(pki.path("ca.crt"));
        command.args(["-Verify", "1", "-mtu"]).args(mtu).args(more);
        let server = Self::start(netns, command)?;
        // It has its socket by then.
        server.proc.wait_line("ACCEPT")?;
        Ok(server)
    }

    fn client(
        pki: &Pki,
        netns: &Netns,
        [client, front]: [SocketAddr; 2],
        mtu: &str,
    ) -> Result<Self> {
        let mut command = pki.s_client(client, front);
        command.args(["-dtls1_2", "-mtu", mtu]);
        Self::start(netns, command)
    }

    fn tell(&mut self, other: &Self, words: &str) -> Result<()> {
        writeln!(self.input, "{words}")?;
        other.proc.wait_line(words).map(drop)
    }
}

/// It answers who it heard last, from a socket that knows nobody.
fn by_one_socket_for_all(plan: Plan<'_>) -> Result<()> {
    exchanges(plan, &[], |_| Ok(()))
}

/// The kernel tells to whom.
fn by_a_socket_connected_to_the_client(plan: Plan<'_>) -> Result<()> {
    let plan = Plan {
        target: HOST,
        bind: HOST,
        ..plan
    };
    exchanges(plan, &["-listen"], |site| {
        let filter = format!("state established sport = :{APP_PORT}");
        let line = site.lab.host.run(&format!("ss -Hun {filter}"))?;
        let peer = line.split_whitespace().last().unwrap_or_default();
        ensure!(peer.parse() == Ok(site.client(CLIENT_PORT)), "{line}");
        Ok(())
    })
}

const CLIENT_PORT: u16 = 4433;

/// In each framing.
fn exchanges(plan: Plan<'_>, how: &[&str], saw: fn(&Site<Peer>) -> Result<()>) -> Result<()> {
    let pki = Pki::new()?;
    for (&framing, mtu) in plan.framings().iter().zip(MTUS.into_iter().cycle()) {
        let plan = Plan { framing, ..plan };
        let mut site = plan.serve(|netns, at| Peer::server(&pki, netns, at, [&[mtu], how]))?;
        let upstream = [site.of(BALANCER, 0), site.service()];
        let balancer = UdpBalancer::start(&site.lab.edge, framing, site.front(), upstream)?;
        let at = [site.client(CLIENT_PORT), site.front()];
        let mut client = Peer::client(&pki, &site.lab.client, at, mtu)?;
        for round in 0..3 {
            let long = "long ".repeat(200);
            client.tell(&site.app, &format!("{long}words of the client's, {round}"))?;
            saw(&site)?;
            let words = format!("{long}words of the server's, {round}");
            site.app.tell(&client, &words)?;
        }
        drop(client);
        balancer.end()?;
        site.end()?;
    }
    Ok(())
}
