//! What others do to truepeer's devices and to the host's routes while it runs: clients go on being
//! served, those that are there and those that come.

use std::io;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};

use super::site::Site;
use super::{CLIENT_PORT, Plan, paths};
use crate::lab::netns::Netns;
use crate::lab::path::Path;
use crate::lab::poll;
use crate::lab::talk::Talk;
use crate::steering::site::{ip, sysctl};

paths! {
    its_device_goes_down;
    its_device_gets_another_mtu;
    its_device_gets_a_strict_rp_filter;
    its_addresses_are_flushed;
    the_default_route_goes_and_comes;
    the_hosts_own_traffic_is_told_that_there_is_no_way;
}

fn its_device_goes_down(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    for (port, device) in (1..).zip(devices(&site.lab.host)?) {
        ip(&site.lab.host, &format!("link set {device} down"))?;
        site.truepeer.wait_line(&format!("{device} was down"))?;
        goes_on(&site, &mut talk, port).with_context(|| device)?;
    }
    Ok(())
}

/// Below 1280 bytes a device has no IPv6, nor any address of it.
fn its_device_gets_another_mtu(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    for (port, mtu) in [(1, 1200), (2, 1400)] {
        ip(&site.lab.host, &format!("link set truepeer0 mtu {mtu}"))?;
        site.truepeer.wait_line(&format!("MTU of {mtu}"))?;
        // With IPv6 its forwarding was gone, for a moment.
        is_served(&site, &mut talk, port).with_context(|| mtu)?;
    }
    Ok(())
}

/// As `sysctl --system` does it, where a file is about all devices. By a lo that is strict no connection
/// is direct.
fn its_device_gets_a_strict_rp_filter(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    let set = |device: &str| {
        let key = format!("ipv4/conf/{device}/rp_filter");
        sysctl(&site.lab.host, &key, "1")
    };
    if site.path == Path::Daemon {
        set("all")?;
    }
    set("truepeer0")?;
    site.truepeer
        .wait_line("rp_filter was strict on truepeer0")?;
    goes_on(&site, &mut talk, 1)
}

fn its_addresses_are_flushed(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    let steered = talk.app.local_addr()?.ip().to_canonical();
    for device in devices(&site.lab.host)? {
        ip(&site.lab.host, &format!("address flush dev {device}"))?;
    }
    let line = format!("steer address {steered} was removed");
    site.truepeer.wait_line(&line)?;
    goes_on(&site, &mut talk, 1)
}

/// Only while the host has none of its own there is one by truepeer's device.
fn the_default_route_goes_and_comes(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let (family, router) = match plan.is_v4() {
        true => ("-4", "198.51.100.1"),
        false => ("-6", "2001:db8:e::1"),
    };
    let mut talk = site.warm(CLIENT_PORT)?;
    for round in 0..2 {
        ip(&site.lab.host, &format!("{family} route del default"))?;
        wait_default(&site.lab.host, family, true)?;
        goes_on(&site, &mut talk, 1 + 2 * round).context("without a default route")?;
        let add = format!("{family} route add default via {router}");
        ip(&site.lab.host, &add)?;
        wait_default(&site.lab.host, family, false)?;
        goes_on(&site, &mut talk, 2 + 2 * round).context("with one again")?;
    }
    Ok(())
}

/// truepeer's own.
fn devices(host: &Netns) -> Result<Vec<String>> {
    let all = host.devices()?.into_iter();
    let own: Vec<_> = all.filter(|name| name.starts_with("truepeer")).collect();
    ensure!(!own.is_empty(), "truepeer has no device");
    Ok(own)
}

/// As without truepeer, whose own route is for replies alone.
fn the_hosts_own_traffic_is_told_that_there_is_no_way(plan: Plan<'_>) -> Result<()> {
    const GOES: [Option<i32>; 2] = [Some(libc::EINPROGRESS), None];
    const IS_TOLD: [Option<i32>; 2] = [Some(libc::ENETUNREACH); 2];
    let (family, router, network, to) = match plan.is_v4() {
        true => (
            "-4",
            "198.51.100.1",
            "192.0.2.0/24",
            &["192.0.2.200:9", "[::ffff:192.0.2.200]:9"][..],
        ),
        false => (
            "-6",
            "2001:db8:e::1",
            "2001:db8:2::/64",
            &["[2001:db8:2::1]:9"][..],
        ),
    };
    let site = plan.start()?;
    let host = &site.lab.host;
    let hears = |netns: &Netns, expected| {
        let mut heard = Vec::new();
        poll::until("the host's own traffic to hear what it should", || {
            heard = to.iter().map(|to| send(netns, to)).collect::<Result<_>>()?;
            Ok(heard.iter().all(|one| *one == expected).then_some(()))
        })
        .with_context(|| format!("it heard {heard:?}"))
    };
    hears(host, GOES)?;
    ip(host, &format!("{family} route del default"))?;
    wait_default(host, family, true)?;
    hears(host, IS_TOLD)?;
    // Of others, and where there is a way.
    hears(&site.lab.client, GOES)?;
    ip(host, &format!("{family} route add {network} via {router}"))?;
    hears(host, GOES)?;
    ip(host, &format!("{family} route del {network}"))?;
    hears(host, IS_TOLD)?;
    site.warm(CLIENT_PORT)?.round_trip()?;
    ip(host, &format!("{family} route add default via {router}"))?;
    hears(host, GOES)
}

/// The errors of a connect and of a datagram.
fn send(netns: &Netns, to: &str) -> Result<[Option<i32>; 2]> {
    let to: SocketAddr = to.parse()?;
    netns.enter(|| {
        let tcp = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking(), None)?;
        let udp = Socket::new(Domain::for_address(to), Type::DGRAM, None)?;
        let error = |result: io::Result<()>| result.err().and_then(|error| error.raw_os_error());
        let connected = error(tcp.connect(&to.into()));
        Ok([
            connected,
            error(udp.send_to(b"words", &to.into()).map(drop)),
        ])
    })
}

fn wait_default(host: &Netns, family: &str, is_there: bool) -> Result<()> {
    let shown = format!("ip {family} route show default");
    poll::until("truepeer's default route to come or go", || {
        let routes = host.run(&shown)?;
        Ok((routes.contains("dev truepeer0") == is_there).then_some(()))
    })
}

fn goes_on(site: &Site, talk: &mut Talk, port: u16) -> Result<()> {
    let new = is_served(site, talk, port)?;
    site.lab.wait_path(&new, site.path)
}

/// By whichever path.
fn is_served(site: &Site, talk: &mut Talk, port: u16) -> Result<Talk> {
    talk.round_trip().context("the open connection")?;
    let mut new = site.open(CLIENT_PORT + port).context("a new connection")?;
    new.round_trip()?;
    Ok(new)
}

/// Of the whole host, and back: nobody is served over IPv6 meanwhile, and everybody afterwards.
#[test]
fn ipv6_is_switched_off_and_on() -> Result<()> {
    use crate::lab::addr::Pair;
    let site = Plan::direct(Pair::v6).start()?;
    let mut talk = site.warm(CLIENT_PORT)?;
    let steered = talk.app.local_addr()?.ip();
    let key = "ipv6/conf/all/disable_ipv6";
    sysctl(&site.lab.host, key, "1")?;
    sysctl(&site.lab.host, key, "0")?;
    ip(
        &site.lab.host,
        "-6 address add fe80::2/64 dev edge nodad
         -6 address add 2001:db8:e::2/64 dev edge nodad
         -6 route add default via 2001:db8:e::1",
    )?;
    let line = format!("steer address {steered} was removed");
    site.truepeer.wait_line(&line)?;
    talk.round_trip().context("the open connection")?;
    // By whichever path: the host's own address has just come.
    site.open(CLIENT_PORT + 1)?.round_trip()
}
