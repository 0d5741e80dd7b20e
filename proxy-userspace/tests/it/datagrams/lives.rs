//! What becomes of flows when the daemon goes.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::rows;
use super::site::Plan;
use crate::lab::addr::{APP_PORT, HOST, LOOPBACK, NEIGHBOUR, WILDCARD};
use crate::lab::datagram::{self, Echo, Kind};
use crate::lab::{has_tcx, poll};

rows! {
    a_daemon_that_is_killed_leaves_nothing;
    a_daemon_that_is_killed_stands_in_nobody_s_way;
    a_daemon_that_is_killed_while_the_app_talks;
    a_daemon_that_is_told_to_end;
    a_daemon_that_is_told_to_end_while_the_app_talks;
}

fn a_daemon_that_is_killed_leaves_nothing(plan: Plan<'_>) -> Result<()> {
    let mut site = plan.start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    site.truepeer.signal(Signal::KILL)?;
    site.truepeer.wait_exit()?;
    site.lab.no_device_left()?;
    poll::until("the balancer to be told", || {
        balancer.send(&[&site.header(1000)[..], b"hello"].concat())?;
        let told = receive_now(&balancer).expect_err("nobody serves").kind();
        Ok((told == ErrorKind::ConnectionRefused).then_some(()))
    })?;
    site.leaks.saw_none()?;
    if !has_tcx()? {
        // Its filters stay, and go with an orderly end of the next one's.
        let mut next = site.command.start()?;
        next.signal(Signal::TERM)?;
        next.wait_exit()?;
    }
    site.lab.leaves_no_trace()
}

/// The service's port is free, and the application talks to whom it likes.
fn a_daemon_that_is_killed_stands_in_nobody_s_way(plan: Plan<'_>) -> Result<()> {
    let mut site = Plan {
        target: HOST,
        bind: HOST,
        args: &["--outsiders", "refuse"],
        ..plan
    }
    .start()?;
    site.exchange(&site.balancer()?, 1000, b"hello")?;
    site.truepeer.signal(Signal::KILL)?;
    site.truepeer.wait_exit()?;
    site.lab.no_device_left()?;
    let other = Echo::listen(&site.lab.host, site.service(), Kind::Unconnected)?;
    let stranger = site.balancer_at(NEIGHBOUR)?;
    poll::until("a stranger to be served", || {
        stranger.send(b"plainly")?;
        Ok(receive_now(&stranger).ok())
    })?;
    drop(other);
    stranger.connect(site.of(HOST, APP_PORT))?;
    poll::until("the app to hear the network", || {
        stranger.send(b"plainly")?;
        Ok(receive_now(&stranger).ok())
    })?;
    site.leaks.saw_none()
}

fn a_daemon_that_is_killed_while_the_app_talks(plan: Plan<'_>) -> Result<()> {
    end_while_the_app_talks(plan, Signal::KILL)
}

fn a_daemon_that_is_told_to_end_while_the_app_talks(plan: Plan<'_>) -> Result<()> {
    end_while_the_app_talks(plan, Signal::TERM)
}

/// Be it at a loopback address, or at all of them.
fn end_while_the_app_talks(plan: Plan<'_>, signal: Signal) -> Result<()> {
    for bind in [LOOPBACK, WILDCARD] {
        let plan = Plan { bind, ..plan };
        end_while_one_talks(plan, signal).with_context(|| format!("bound to {bind:?}"))?;
    }
    Ok(())
}

/// Nothing of what it says leaves from a steer address. Without truepeer, IPv6 lets it leave from ::1, and any family
/// from the host's own.
fn end_while_one_talks(plan: Plan<'_>, signal: Signal) -> Result<()> {
    const ENOUGH: usize = 64;
    let own = match plan.bind.v4.is_unspecified() {
        true => (plan.family)(HOST, 0).ip(),
        false => Ipv6Addr::LOCALHOST.into(),
    };
    let mut site = plan.serve(datagram::socket)?;
    let balancer = site.balancer()?;
    balancer.send(&[&site.header(1000)[..], b"hello"].concat())?;
    let (_, client) = datagram::receive(&site.app)?;
    ensure!(client == site.client(1000), "the app sees {client}");
    let is_over = AtomicBool::new(false);
    let (app, truepeer, lab) = (&site.app, &mut site.truepeer, &site.lab);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // The kernel refuses it in the end.
                let _ = app.send_to(b"and another thing", client);
            }
        });
        let killed = (0..ENOUGH)
            .try_for_each(|_| datagram::receive(&balancer).map(drop))
            .and_then(|()| truepeer.signal(signal))
            .and_then(|()| truepeer.wait_exit().map(drop))
            .and_then(|()| lab.no_device_left());
        is_over.store(true, Ordering::Relaxed);
        killed
    })?;
    site.leaks.saw_none_but_from(own)
}

fn receive_now(socket: &UdpSocket) -> std::io::Result<usize> {
    socket.set_read_timeout(Some(datagram::TICK))?;
    socket.recv(&mut [0; 100])
}

fn a_daemon_that_is_told_to_end(plan: Plan<'_>) -> Result<()> {
    let mut site = plan.app_at(HOST).start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    site.truepeer.signal(Signal::TERM)?;
    let status = site.truepeer.wait_exit()?;
    ensure!(status.success(), "{status}");
    // The app goes on as if there had been no proxy.
    let client = datagram::socket(&site.lab.edge, site.of(crate::lab::addr::BALANCER, 0))?;
    poll::until("the app to hear the network", || {
        client.send_to(b"plainly", site.of(HOST, APP_PORT))?;
        Ok(datagram::receive(&client).ok().map(drop))
    })?;
    site.leaks.saw_none()
}
