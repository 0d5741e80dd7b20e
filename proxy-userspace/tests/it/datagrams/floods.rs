//! More new clients than the flow table has room for: the daemon has nothing to do with them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use super::site::{Plan, Site};
use crate::lab::addr::{CROWD, Pair};
use crate::lab::datagram;
use crate::lab::path::Path;
use crate::lab::proc::Proc;
use crate::lab::scale::scaled;

#[test]
fn an_active_flow_loses_nothing_v4() -> Result<()> {
    an_active_flow_loses_nothing(Pair::v4)
}

#[test]
fn an_active_flow_loses_nothing_v6() -> Result<()> {
    an_active_flow_loses_nothing(Pair::v6)
}

/// One exchange of the active flow follows so many new ones.
const AT_ONCE: u32 = 128;
/// What one balancer gets of the table.
const SHARE: usize = 1 << 16;

fn an_active_flow_loses_nothing(family: fn(Pair, u16) -> SocketAddr) -> Result<()> {
    let site = Plan::new(Path::Direct, family).start()?;
    let (active, flooding) = (site.balancer()?, site.balancer()?);
    let idle = Idle::begin(&site.truepeer)?;
    let count: u32 = AT_ONCE * scaled(1_600, 8_000);
    for first in (0..count).step_by(AT_ONCE as usize) {
        for number in first..first + AT_ONCE {
            let header = datagram::v2(client(&site, number), site.front(), &[]);
            flooding.send(&header)?;
        }
        let words = first.to_be_bytes();
        active.send(&[&site.header(1000)[..], &words].concat())?;
        while site.app.next().context("the active flow's datagram")?.0 != site.client(1000) {}
        site.answered(&active, 1000, &words)?;
    }
    idle.end(count.into())?;
    let shown = site.lab.shown("connections")?;
    let listed = shown.as_array().map_or(0, Vec::len);
    ensure!(listed == SHARE, "{listed} flows");
    let kernel = site.lab.shown("status")?["kernel"].take();
    let counted = |name: &str| kernel[name].as_u64().unwrap_or_default();
    let [opened, full] = ["datagram_opened", "datagram_full"].map(counted);
    ensure!(
        opened + full == u64::from(count) + 1,
        "{opened} flows were opened, and {full} were not"
    );
    for (name, times) in kernel.as_object().context("counters")? {
        let is_daemons = name.contains("to_daemon") || name.starts_with("datagram_reply");
        ensure!(!is_daemons || times == 0, "{times} by {name}");
    }
    site.leaks.saw_none()
}

/// What the daemon has used before the flood. Its CPU time says little: the kernel charges it with what it does for the
/// network while it runs.
struct Idle<'a> {
    truepeer: &'a Proc,
    switches: u64,
    /// Its own, and that of the programs' maps.
    memory: u64,
}

impl<'a> Idle<'a> {
    fn begin(truepeer: &'a Proc) -> Result<Self> {
        Ok(Self {
            truepeer,
            switches: truepeer.switches()?,
            memory: truepeer.memory()? + truepeer.fd_info("memlock")?.iter().sum::<u64>(),
        })
    }

    /// What it does twice a second anyway is less than anything for each datagram would be, and the memory of all
    /// flows was there before.
    fn end(self, datagrams: u64) -> Result<()> {
        const ROOM: u64 = 4 << 20;
        let now = Self::begin(self.truepeer)?;
        let switches = now.switches - self.switches;
        ensure!(switches <= datagrams / 32, "woken {switches} times");
        let more = now.memory.saturating_sub(self.memory);
        ensure!(more <= ROOM, "{more} bytes more");
        Ok(())
    }
}

/// One of the crowd.
fn client(site: &Site, number: u32) -> SocketAddr {
    const PER_ADDRESS: u32 = 50_000;
    let port = u16::try_from(1024 + number % PER_ADDRESS).expect("a port");
    let host = number / PER_ADDRESS + 1;
    let net = CROWD[usize::from(site.service().is_ipv6())].parse::<IpNet>();
    match net.expect("a network").addr() {
        IpAddr::V4(net) => (Ipv4Addr::from(u32::from(net) + host), port).into(),
        IpAddr::V6(net) => (Ipv6Addr::from(u128::from(net) + u128::from(host)), port).into(),
    }
}
