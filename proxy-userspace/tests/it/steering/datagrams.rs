//! The same table for UDP.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};

use super::{Bound, changed, has};
use crate::lab::Lab;
use crate::lab::addr::{BALANCER, FRONT, FRONT_PORT, HOST, TRUEPEER_PORT};
use crate::lab::datagram::{self, Echo, Framing, Kind};
use crate::lab::leaks::Leaks;
use crate::lab::path::Path;
use crate::lab::scale::scaled;

/// The row: an app on a host that `set_up` has changed, by the kernel; with full counts, by the daemon too.
pub fn hold(app: Bound, set_up: impl Fn(&Lab) -> Result<()>) -> Result<()> {
    let lab = changed(set_up)?;
    let echo = Echo::listen(&lab.host, app.to, Kind::Unconnected)?;
    let paths = scaled(&[Path::Direct][..], &Path::BOTH);
    for &path in paths {
        holds_by(path, app, &lab, &echo).with_context(|| format!("told {path:?}"))?;
        lab.leaves_no_trace()?;
    }
    Ok(())
}

fn holds_by(told: Path, app: Bound, lab: &Lab, echo: &Echo) -> Result<()> {
    let truepeer = lab.truepeer().targets_for(app.to).args(told.args());
    let services = services(lab);
    let truepeer = truepeer.args(Framing::V2.args()).listen(services.clone());
    let leaks = Leaks::watch(&lab.edge)?;
    let _truepeer = truepeer.start()?;
    services
        .into_iter()
        .try_for_each(|service| sees(lab, service, echo, app.client))?;
    leaks.saw_none()
}

/// Not every one of these hosts has an IPv6 address.
fn services(lab: &Lab) -> Vec<SocketAddr> {
    let both = HOST.both(TRUEPEER_PORT).into_iter();
    both.filter(|addr| has(lab, addr.ip())).collect()
}

/// The app sees the client, and its answers come back, by a balancer of either family.
pub fn sees(lab: &Lab, service: SocketAddr, echo: &Echo, client: SocketAddr) -> Result<()> {
    let balancer = datagram::socket(&lab.edge, BALANCER.like(service, 0))?;
    // Another balancer doesn't get a client who has just been here.
    let port = client.port() + u16::from(service.is_ipv6());
    let client = SocketAddr::new(client.ip(), port);
    balancer.connect(service)?;
    for words in [&b"hello"[..], b"again", &[7; 1200]] {
        asks(&balancer, echo, client, words).with_context(|| format!("by {service}"))?;
    }
    Ok(())
}

pub fn asks(balancer: &UdpSocket, echo: &Echo, client: SocketAddr, words: &[u8]) -> Result<()> {
    let header = Framing::V2.header(client, FRONT.like(client, FRONT_PORT));
    balancer.send(&[&header, words].concat())?;
    let (seen, got) = echo.next()?;
    let seen = SocketAddr::new(seen.ip().to_canonical(), seen.port());
    ensure!(seen == client, "the app sees {seen}");
    ensure!(got == words, "the app got {} bytes", got.len());
    let (answer, _) = datagram::receive(balancer).context("the answer")?;
    ensure!(answer == words, "an answer of {} bytes", answer.len());
    Ok(())
}
