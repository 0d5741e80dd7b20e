//! The same table for UDP.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Bound, changed, has, services};
use crate::lab::Lab;
use crate::lab::addr::{BALANCER, FRONT, FRONT_PORT, HOST};
use crate::lab::datagram::{self, Echo, Framing, Kind};
use crate::lab::leaks::Leaks;
use crate::lab::path::Path;
use crate::lab::poll;
use crate::lab::scale::scaled;

/// The row: an app on a host that `set_up` has changed, by the kernel; with full counts, by the daemon too.
pub fn hold<T>(app: Bound, set_up: impl Fn(&Lab) -> Result<T>) -> Result<()> {
    let (lab, _kept) = changed(set_up)?;
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
    goes_by(told, app, lab)?;
    leaks.saw_none()
}

/// By the kernel, where there is a service of the client's family.
fn goes_by(told: Path, app: Bound, lab: &Lab) -> Result<()> {
    if !has(lab, HOST.like(app.client, 0).ip()) {
        return Ok(());
    }
    let kernel = lab.shown("status")?["kernel"].take();
    let counts = ["datagram_up", "datagram_down"].map(|name| kernel[name].as_u64());
    let is_by_kernel = counts
        .iter()
        .all(|count| count.is_some_and(|count| count > 0));
    ensure!(is_by_kernel == (told == Path::Direct), "{kernel:#}");
    Ok(())
}

/// The app sees the client, and its answers come back, by a balancer of either family.
pub fn sees(lab: &Lab, service: SocketAddr, echo: &Echo, client: SocketAddr) -> Result<()> {
    let balancer = balancer(lab, service)?;
    // Another balancer doesn't get a client who has just been here.
    let port = client.port() + u16::from(service.is_ipv6());
    let client = SocketAddr::new(client.ip(), port);
    for words in [&b"hello"[..], b"again", &[7; 1200]] {
        asks(&balancer, echo, client, words).with_context(|| format!("by {service}"))?;
    }
    Ok(())
}

/// A socket of its, which hears the service alone.
pub fn balancer(lab: &Lab, service: SocketAddr) -> Result<UdpSocket> {
    let socket = datagram::socket(&lab.edge, BALANCER.like(service, 0))?;
    socket.connect(service)?;
    Ok(socket)
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

/// The app's socket may live on for a moment, in a process that another test is just starting.
pub fn hears_that_nobody_is_there(balancer: &UdpSocket, client: SocketAddr) -> Result<()> {
    let header = Framing::V2.header(client, FRONT.like(client, FRONT_PORT));
    balancer.set_read_timeout(Some(Duration::from_millis(100)))?;
    let heard = poll::until("the balancer to hear that nobody is there", || {
        let heard = balancer.send(&header).and_then(|_| balancer.recv(&mut []));
        match heard.map_err(|error| error.kind()) {
            Err(ErrorKind::ConnectionRefused) => Ok(Some(())),
            Err(ErrorKind::WouldBlock) => Ok(None),
            other => bail!("{other:?}"),
        }
    });
    balancer.set_read_timeout(Some(poll::PATIENCE))?;
    heard
}
