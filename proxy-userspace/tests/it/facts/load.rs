//! A service whose path changes to and fro while it has its hands full.

use std::fs;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};

use super::{DIRECT, Host};
use crate::lab::addr::{CLIENT, FRONT, FRONT_PORT};
use crate::lab::header::Version;
use crate::lab::poll;
use crate::lab::stream::{read_greeting, round_trip};
use crate::steering::site::{ip, sysctl};

/// Connections that are open talk on without a pause, and new ones come all the time, while the
/// path changes to and fro.
#[test]
fn under_load() -> Result<()> {
    let host = Host::new()?;
    let mut open = host.under_load(|load| {
        let rule = "rule add fwmark 7 table 100 priority 500";
        for (round, (change, expected, path)) in [
            (rule, ["ip -4 rule: 500", DIRECT], "daemon"),
            ("rule del priority 500", [DIRECT; 2], "direct"),
        ]
        .into_iter()
        .cycle()
        .take(6)
        .enumerate()
        {
            host.notices(|lab| ip(&lab.host, change), expected)?;
            host.goes_on(load, path, 32_000 + u16::try_from(round)?)?;
        }
        Ok(())
    })?;
    // What a setting makes of new ones in the moment before it is noticed is another matter.
    host.notices(
        |lab| sysctl(&lab.host, "ipv4/tcp_syncookies", "0"),
        ["syncookies"; 2],
    )?;
    open.iter_mut()
        .try_for_each(|it| round_trip(it, b"still there"))?;
    host.connect(31_000).map(drop)
}

/// Forwarding that is switched off for the host is so for our device as well, which then has it again.
#[test]
fn forwarding_of_the_host() -> Result<()> {
    let host = Host::new()?;
    host.under_load(|load| {
        for round in 0..3 {
            for all in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                sysctl(&host.lab.host, all, "1")?;
                sysctl(&host.lab.host, all, "0")?;
            }
            poll::until("truepeer's device to forward again", || {
                let is_on = |ip| host.is_on(&format!("{ip}/conf/truepeer0/forwarding"));
                Ok((is_on("ipv4")? && is_on("ipv6")?).then_some(()))
            })?;
            host.notices(|_| Ok(()), [DIRECT; 2])?;
            host.goes_on(load, "direct", 33_000 + round)?;
        }
        Ok(())
    })
    .map(drop)
}

impl Host {
    fn is_on(&self, sysctl: &str) -> Result<bool> {
        let read = || fs::read_to_string(format!("/proc/sys/net/{sysctl}"));
        Ok(self.lab.host.enter(read)?.trim() == "1")
    }

    /// One that the application has greeted by the client's address.
    fn connect(&self, port: u16) -> Result<TcpStream> {
        let client = CLIENT.v4(port);
        let header = Version::V2.header(client, FRONT.v4(FRONT_PORT));
        let mut stream = self.lab.balancer(&header)?;
        ensure!(read_greeting(&mut stream)? == client, "not {client}");
        Ok(stream)
    }

    /// Fails unless the open connection of that client takes `path`.
    fn takes(&self, path: &str, port: u16) -> Result<()> {
        let client = CLIENT.v4(port).to_string();
        let shown = self.lab.shown("connections")?;
        let mut all = shown.as_array().into_iter().flatten();
        let one = all.find(|one| one["client"] == client);
        let one = one.with_context(|| format!("{client} is not open: {shown:#}"))?;
        ensure!(one["path"] == path, "not {path}: {one:#}");
        Ok(())
    }

    /// Does what `flips` paths while connections talk; returns those that were open all the time.
    pub(super) fn under_load(
        &self,
        flips: impl FnOnce(&Load) -> Result<()>,
    ) -> Result<Vec<TcpStream>> {
        const OPEN: u16 = 8;
        let open: Result<Vec<_>> = (0..OPEN).map(|n| self.connect(FIRST + n)).collect();
        let mut open = open?;
        self.takes("direct", FIRST)?;
        let load = Load::default();
        thread::scope(|scope| {
            let talking = open
                .iter_mut()
                .map(|stream| scope.spawn(|| load.talk(stream)));
            let mut running: Vec<_> = talking.collect();
            running.push(scope.spawn(|| load.connect(self)));
            let flipped = flips(&load);
            let flipped = flipped.with_context(|| format!("{:#?}", self.lab.shown("status")));
            load.stop.store(true, Ordering::Relaxed);
            running
                .into_iter()
                .try_for_each(|it| it.join().expect("no panic"))?;
            flipped
        })?;
        Ok(open)
    }

    /// After a flip: all that talks goes on where it is, and a new connection, of the client's
    /// `port`, takes `path`.
    pub(super) fn goes_on(&self, load: &Load, path: &str, port: u16) -> Result<()> {
        load.goes_on()?;
        let new = self.connect(port)?;
        self.takes(path, port)?;
        drop(new);
        self.takes("direct", FIRST)
    }
}

/// Of the clients' ports.
const FIRST: u16 = 30_000;

/// What goes on beside the changes.
#[derive(Default)]
pub(super) struct Load {
    stop: AtomicBool,
    talked: AtomicU64,
    connected: AtomicU64,
}

impl Load {
    fn talk(&self, stream: &mut TcpStream) -> Result<()> {
        while !self.stop.load(Ordering::Relaxed) {
            round_trip(stream, &[7; 200])?;
            self.talked.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn connect(&self, host: &Host) -> Result<()> {
        let mut ports = 40_000..60_000;
        while !self.stop.load(Ordering::Relaxed) {
            let mut stream = host.connect(ports.next().context("all ports are used up")?)?;
            round_trip(&mut stream, b"hello")?;
            self.connected.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Until both have made progress.
    fn goes_on(&self) -> Result<()> {
        let counts = [&self.talked, &self.connected];
        let before = counts.map(|count| count.load(Ordering::Relaxed));
        poll::until("the load to go on", || {
            let now = counts.map(|count| count.load(Ordering::Relaxed));
            let goes_on = now.iter().zip(before).all(|(now, before)| now - before > 8);
            Ok(goes_on.then_some(()))
        })
    }
}
