//! `truepeer check`: finds what is wrong, says so in one line, and leaves nothing behind.

mod firewalls;

use std::path::Path;
use std::process;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::addr::{
    APP_PORT, BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, TRUEPEER_PORT,
};
use crate::lab::app::{App, Echo};
use crate::lab::header::Version;
use crate::lab::poll;
use crate::lab::stream::{read_greeting, round_trip};
use crate::lab::truepeer::Said;
use crate::lab::{Lab, PINS, has_tcx};

/// A lab in which nothing is wrong.
fn healthy() -> Result<(Lab, [Echo; 2])> {
    let lab = Lab::new()?;
    // Mounts bpffs, if this is the first test to need it.
    lab.allow(&["add", "192.0.2.77"])?.expect(0, &[])?;
    let [v4, v6] = LOOPBACK.both(APP_PORT);
    let apps = [
        Echo::greeting(&lab.host, v4)?,
        Echo::greeting(&lab.host, v6)?,
    ];
    Ok((lab, apps))
}

/// Fails unless one line begins with `start` and has each of `parts`.
fn line(said: &Said, start: &str, parts: &[&str]) -> Result<()> {
    let fits =
        |line: &&str| line.starts_with(start) && parts.iter().all(|part| line.contains(part));
    let found = said.text.lines().find(fits);
    found.with_context(|| format!("no line \"{start}\" with {parts:?} in: {}", said.text))?;
    Ok(())
}

/// But for what an old kernel hasn't got.
fn all_ok(said: &Said) -> Result<()> {
    let lacks = |line: &str| line.starts_with("warn tcx") || line.contains("this kernel has no ");
    let is_old = !has_tcx()?;
    let is_bad = |line: &&str| !(line.starts_with("ok ") || is_old && lacks(line));
    let bad = said.text.lines().find(is_bad);
    ensure!(said.code == Some(0) && bad.is_none(), "{said:?}");
    Ok(())
}

#[test]
fn a_healthy_host_is_ok_in_every_line() -> Result<()> {
    let (lab, _apps) = healthy()?;
    let said = lab.truepeer().check()?;
    all_ok(&said)?;
    line(&said, "ok capability", &["CAP_NET_RAW"])?;
    line(&said, "ok target", &["127.0.0.1:8080"])?;
    line(&said, "ok spoofed", &["127.0.0.1:8080", "192.0.2.1"])?;
    line(&said, "ok spoofed", &["[::1]:8080", "2001:db8::1"])
}

/// The app sees the spoofed client, so that it was no other connection that worked.
#[test]
fn its_connections_come_from_the_spoofed_client() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let truepeer = lab.truepeer().no_targets();
    let said = truepeer.args(["-4", "127.0.0.1:8080"]).check()?;
    said.expect(0, &[])?;
    let plain = app.accept()?.1.ip();
    let spoofed = app.accept()?.1.ip();
    assert_eq!(
        [plain, spoofed].map(|ip| ip.to_string()),
        ["127.0.0.1", "192.0.2.1"]
    );
    app.saw_nobody()
}

#[test]
fn it_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new()?;
    let _app = Echo::greeting(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let look = || -> Result<_> {
        let namespaces = lab.host.run("ip netns list-id")?;
        let routes = lab.host.run("ip route show table all")?;
        Ok((lab.host.devices()?, namespaces, routes))
    };
    let before = look()?;
    lab.truepeer().check()?;
    ensure!(
        !Path::new(PINS).join(lab.instance()).exists(),
        "a pinned map"
    );
    poll::until("device and namespace to go", || {
        Ok((look()? == before).then_some(()))
    })
}

#[test]
fn it_works_beside_a_running_daemon() -> Result<()> {
    let (lab, _apps) = healthy()?;
    let chosen = ["--steer4", "10.99.0.0/28", "--steer6", "fd00:99::/112"];
    for truepeer in [lab.truepeer(), lab.truepeer().args(chosen)] {
        lab.no_device_left()?;
        let _running = truepeer.start()?;
        let client = CLIENT.v4(41000);
        let header = Version::V2.header(client, FRONT.v4(FRONT_PORT));
        let mut open = lab.balancer(&header)?;
        assert_eq!(read_greeting(&mut open)?, client);

        let said = truepeer.check()?;
        all_ok(&said)?;
        line(&said, "ok listen", &["served by this instance"])?;
        line(&said, "ok steering", &["truepeer1"])?;
        round_trip(&mut open, b"undisturbed")?;
    }
    // By then all that has no other way is routed to the daemon's device.
    lab.no_device_left()?;
    let _running = lab.truepeer().start()?;
    lab.host.run("ip -6 route del default")?;
    poll::until("the daemon's route", || {
        let routes = lab.host.run("ip -6 route show default")?;
        Ok(routes.contains("truepeer0").then_some(()))
    })?;
    line(&lab.truepeer().check()?, "ok steer network", &["fd74:"])
}

#[test]
fn an_app_that_is_down() -> Result<()> {
    let lab = Lab::new()?;
    let _v6 = Echo::greeting(&lab.host, LOOPBACK.v6(APP_PORT))?;
    let said = lab.truepeer().check()?;
    said.expect(1, &[])?;
    line(
        &said,
        "FAIL target default 127.0.0.1:8080",
        &["next: start"],
    )?;
    line(&said, "FAIL spoofed default 127.0.0.1:8080", &[])?;
    line(&said, "ok target default [::1]:8080", &[])?;
    line(&said, "ok spoofed default [::1]:8080", &[])
}

#[test]
fn a_client_on_the_link_that_is_not_there() -> Result<()> {
    let (lab, _apps) = healthy()?;
    let ghosts = ["198.51.100.99", "2001:db8:e::99"];
    let present = [BALANCER.v4, BALANCER.v6, CLIENT.v4, CLIENT.v6].map(|ip| ip.to_string());
    let truepeer = lab.truepeer().args(["--client"]);
    let said = truepeer.clone().args(ghosts).args(&present).check()?;
    said.expect(1, &[])?;
    for ghost in ghosts {
        line(&said, "FAIL client", &[ghost, "no neighbour", "next: "])?;
    }
    for client in &present {
        line(&said, "ok client", &[client])?;
    }
    all_ok(&truepeer.args(&present).check()?)
}

/// A route is there; it is one that refuses.
#[test]
fn clients_behind_routes_that_refuse() -> Result<()> {
    let (lab, _apps) = healthy()?;
    for kind in ["blackhole", "prohibit", "unreachable"] {
        lab.host
            .run(&format!("ip route replace {kind} 192.0.2.128/25"))?;
        let said = lab.truepeer().args(["--client", "192.0.2.129"]).check()?;
        let parts = ["192.0.2.129", &format!("kind {kind}")];
        line(&said, "FAIL client", &parts)?;
    }
    // Without any there is truepeer's own.
    lab.host.run("ip route del 192.0.2.128/25")?;
    lab.host.run("ip route del default")?;
    let said = lab.truepeer().args(["--client", "192.0.2.129"]).check()?;
    line(&said, "ok client", &["no route leads to 192.0.2.129"])
}

#[test]
fn clients_that_nobody_can_be() -> Result<()> {
    let (lab, _apps) = healthy()?;
    let bad = [
        "127.0.0.1",
        "198.51.100.255",
        "224.0.0.1",
        "fe80::9",
        "169.254.80.81",
    ];
    let said = lab.truepeer().args(["--client"]).args(bad).check()?;
    said.expect(1, &[])?;
    bad.iter()
        .try_for_each(|client| line(&said, "FAIL client", &[client, "refused"]))?;
    let own = HOST.both(0).map(|own| own.ip().to_string());
    let said = lab.truepeer().args(["--client"]).args(&own).check()?;
    all_ok(&said)?;
    own.iter()
        .try_for_each(|client| line(&said, "ok client", &[client, "this host's own"]))
}

#[test]
fn clients_without_a_target_of_their_family() -> Result<()> {
    let (lab, _apps) = healthy()?;
    let only_v4 = lab.truepeer().no_targets().args(["-4", "127.0.0.1:8080"]);
    let only_v4 = only_v4.args(["--client", "2001:db8:c::9"]);
    let said = only_v4.check()?;
    said.expect(1, &[])?;
    line(&said, "FAIL client", &["2001:db8:c::9", "--target6"])?;
    let said = only_v4.args(["--on-no-target", "unspoofed"]).check()?;
    said.expect(0, &[])?;
    line(&said, "ok client", &["2001:db8:c::9"])
}

/// Where a daemon couldn't pin its allowlist.
#[test]
fn a_bpffs_that_is_read_only() -> Result<()> {
    let (lab, _apps) = healthy()?;
    let said = lab.truepeer().with_read_only_bpffs().check()?;
    said.expect(1, &[])?;
    line(&said, "FAIL bpffs", &["read-only", "remount,rw"])
}

/// The network of a device, or a neighbour's address.
#[test]
fn steer_networks_that_are_others() -> Result<()> {
    let (lab, _apps) = healthy()?;
    for (flag, net) in [
        ("--steer4", "198.51.100.16/28"),
        ("--steer6", "2001:db8:e::1:0/112"),
    ] {
        let said = lab.truepeer().args([flag, net]).check()?;
        said.expect(1, &[])?;
        line(&said, "FAIL steer network", &[net, "edge", flag])?;
        // The check's own device has an address in there.
        lab.no_device_left()?;
        let running = lab.truepeer().args([flag, net]).start()?;
        running.wait_line(&format!("ERROR steer network: {net}"))?;
    }
    lab.host.run("ip address add 10.99.0.2/32 dev edge")?;
    let said = lab.truepeer().args(["--steer4", "10.99.0.1/28"]).check()?;
    line(
        &said,
        "FAIL steer network",
        &["own address 10.99.0.2, of edge"],
    )?;
    lab.edge.ip("address add 169.254.80.80/16 dev host")?;
    lab.host.ip("route add 169.254.0.0/16 dev edge")?;
    let said = lab.truepeer().check()?;
    said.expect(1, &[])?;
    line(
        &said,
        "FAIL steer network",
        &["169.254.80.80", "answers on edge", "--steer4"],
    )
}

#[test]
fn a_router_that_is_not_there() -> Result<()> {
    let (lab, _apps) = healthy()?;
    lab.host.run("ip route replace default via 198.51.100.99")?;
    let said = lab.truepeer().check()?;
    said.expect(1, &[])?;
    line(&said, "FAIL router", &["198.51.100.99", "edge", "next: "])?;
    line(&said, "FAIL spoofed default 127.0.0.1:8080", &[])?;
    line(&said, "ok router", &["2001:db8:e::1"])
}

#[test]
fn no_default_route() -> Result<()> {
    let (lab, _apps) = healthy()?;
    lab.host.run("ip -6 route del default")?;
    let said = lab.truepeer().check()?;
    line(&said, "warn route", &["IPv6", "ip -6 route add"])?;
    line(&said, "ok route", &["IPv4"])
}

#[test]
fn a_port_that_is_taken() -> Result<()> {
    let (lab, _apps) = healthy()?;
    let _holder = App::listen(&lab.host, HOST.v4(TRUEPEER_PORT))?;
    let said = lab.truepeer().check()?;
    said.expect(1, &[])?;
    let pid = format!("(pid {})", process::id());
    line(
        &said,
        "FAIL listen",
        &["198.51.100.2:7000 is taken by", &pid, "next: "],
    )?;
    line(&said, "ok listen", &["[2001:db8:e::2]:7000 is free"])?;
    let elsewhere = lab
        .truepeer()
        .listen([BALANCER.v4(TRUEPEER_PORT)])
        .check()?;
    line(&elsewhere, "FAIL listen", &["not an address of this host"])
}

#[test]
fn json_says_the_same() -> Result<()> {
    let lab = Lab::new()?;
    let said = lab.truepeer().args(["--json"]).check()?;
    said.expect(1, &[])?;
    let findings: Vec<Value> = serde_json::from_str(&said.text)?;
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    for finding in &findings {
        let status = text(finding, "status");
        ensure!(["ok", "warn", "FAIL"].contains(&&*status), "{finding}");
        ensure!(
            !text(finding, "subject").is_empty() && !text(finding, "message").is_empty(),
            "{finding}"
        );
        ensure!((status == "ok") == finding["next"].is_null(), "{finding}");
    }
    let down = |finding: &&Value| text(finding, "subject") == "target";
    let down = findings.iter().find(down).context("no target")?;
    assert_eq!(text(down, "status"), "FAIL");
    assert_eq!(text(down, "service"), "default");
    assert_eq!(text(down, "target"), "127.0.0.1:8080");
    Ok(())
}

#[test]
fn mistakes_are_exit_code_2() -> Result<()> {
    let lab = Lab::new()?;
    lab.truepeer_raw(&["check"])?.expect(2, &["--listen"])?;
    let none: [String; 0] = [];
    lab.truepeer()
        .allow(none)
        .check()?
        .expect(2, &["--allow"])?;
    let said = lab.truepeer().args(["--client", "somebody"]).check()?;
    said.expect(2, &["--client"])
}
