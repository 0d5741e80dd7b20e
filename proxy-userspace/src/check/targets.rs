//! Real connections to the applications: from this host, and from a spoofed client.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{net::TcpStream, sync::oneshot, time::timeout};

use super::{Finding, routes::nobody, steering::Steering};
use crate::{
    app,
    config::Service,
    facts::{Bound, is_strict_at},
    netns::{Entrance, SpoofNs, Way, has_route_by, way_to},
    relay::{Route, tcp::Spoofed},
    sys,
};

/// Whoever waits for a check waits no longer than this.
const PATIENCE: Duration = Duration::from_secs(5);
/// A packet there and one back.
const GOODBYE: Duration = Duration::from_secs(1);
const SPOOFED: &str = "spoofed";

pub async fn plainly(service: &Service, bound: &Bound) -> Vec<Finding> {
    const SUBJECT: &str = "target";
    let mut findings = Vec::new();
    for target in service.targets() {
        let found = match within(service, TcpStream::connect(target)).await {
            Ok(_) => Finding::ok(SUBJECT, "the application accepts connections"),
            Err(error) => match bound.get(&target) {
                Some(app) => Finding::ok(
                    SUBJECT,
                    format!("the application listens, by {} alone", app.entrance.name),
                ),
                None => Finding::fail(
                    SUBJECT,
                    cause(&error),
                    "start the application, or correct the target",
                ),
            },
        };
        findings.push(found.of(&service.name, Some(target)));
    }
    findings
}

/// The same way as the daemon's connections.
pub async fn spoofed(service: &Service, steering: &Steering, bound: &Bound) -> Vec<Finding> {
    let mut findings = Vec::new();
    for target in service.targets() {
        let found = match steering.route(target, service.transport()) {
            Some(route) => attempt(service, steering, route, bound).await,
            None => Finding::warn(
                SPOOFED,
                "IPv6 is switched off on this host: IPv6 clients are not served",
                "switch it on, or leave --target6 out",
            ),
        };
        findings.push(found.of(&service.name, Some(target)));
    }
    findings
}

async fn attempt(service: &Service, steering: &Steering, route: Route, bound: &Bound) -> Finding {
    let client = client_for(&route);
    match within(service, connect(steering.spoof(), client, route)).await {
        Ok(()) => Finding::ok(SPOOFED, format!("reached from client {}", client.ip())),
        Err(error) => match bound.get(&route.target.0) {
            Some(app) => by_one_device(&app.entrance, client.ip()).await,
            None => Finding::fail(
                SPOOFED,
                format!("not reached from client {}: {}", client.ip(), cause(&error)),
                next_after(&error, client.ip()),
            ),
        },
    }
}

/// Why clients don't reach an application that hears by `device` alone.
pub async fn by_one_device(device: &Entrance, client: IpAddr) -> Finding {
    let Entrance { name, index } = device;
    let (cause, next) = match way_to(client).await {
        Ok(Way::Out(hop)) if client.is_ipv4() && hop.device != *name && is_strict_at(name) => (
            format!(
                "rp_filter is strict there, and client {client} is answered by {}",
                hop.device
            ),
            format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2"),
        ),
        Ok(_) if !matches!(has_route_by(client, *index).await, Ok(true)) => (
            format!(
                "no route leads to client {client} by it, so that nothing can be answered there"
            ),
            "have it listen without SO_BINDTODEVICE (in systemd's units: BindToDevice=), or add a \
             route by that device"
                .into(),
        ),
        _ => (
            format!("client {client} didn't reach it there"),
            format!(
                "let the firewall accept packets from any client to the application by {name}; see the firewall line"
            ),
        ),
    };
    let message = format!("the application listens by {name} alone: {cause}");
    Finding::fail(SPOOFED, message, next)
}

fn next_after(error: &io::Error, client: IpAddr) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => format!(
            "let the firewall accept packets from any client to the application by lo and truepeer*; \
             see the rp_filter, firewall and route lines, and `ip route get {client}`"
        ),
        _ => "see the target's line".into(),
    }
}

fn client_for(route: &Route) -> SocketAddr {
    let [v4, v6] = nobody();
    SocketAddr::new(if route.steered.is_ipv4() { v4 } else { v6 }, 0)
}

/// On a thread of its own, as it ends in the spoof namespace.
async fn connect(spoof: &Arc<SpoofNs>, client: SocketAddr, route: Route) -> io::Result<()> {
    let (done, outcome) = oneshot::channel();
    let spoof = spoof.clone();
    thread::spawn(move || done.send(connect_inside(&spoof, client, &route)));
    let outcome = outcome.await.map_err(io::Error::other)?;
    outcome.map_err(|error| error.downcast().unwrap_or_else(io::Error::other))
}

fn connect_inside(spoof: &SpoofNs, client: SocketAddr, route: &Route) -> Result<()> {
    spoof.enter()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.context("a runtime")?.block_on(async {
        let spoofed = Spoofed::plain(route);
        let connecting = timeout(PATIENCE, spoofed.connect_from(client));
        let stream = connecting.await.map_err(io::Error::from)??;
        // Says goodbye, so that the application's log has no reset.
        sys::end_cleanly(&stream)?;
        drop(stream);
        // Without the programs nobody would hear it, and the kernel keep the namespace for minutes.
        let _ = timeout(GOODBYE, app::all_has_arrived(false)).await;
        Ok(())
    })
}

async fn within<T>(
    service: &Service,
    connecting: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    timeout(PATIENCE.min(service.connect_timeout), connecting).await?
}

fn cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "nothing listens there".into(),
        io::ErrorKind::TimedOut => "nothing answers there".into(),
        _ => error.to_string(),
    }
}
