//! What a service does with headers that can't have what most have, by its flags.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, LATER, LOOPBACK, TRUEPEER_PORT,
};
use crate::lab::app::App;
use crate::lab::header::{Version, v2, v2_raw};
use crate::lab::proc::Proc;
use crate::lab::stream::expect_reset;
use crate::lab::talk::Talk;
use crate::steering::site::{ip, sysctl};

/// An app for each of `targets` (`-4`, `-6`), and truepeer in front of them.
fn served(targets: &[SocketAddr], args: &[&str]) -> Result<(Lab, Vec<App>, Proc)> {
    served_in(Lab::new()?, targets, args)
}

fn served_in(lab: Lab, targets: &[SocketAddr], args: &[&str]) -> Result<(Lab, Vec<App>, Proc)> {
    let listen = |target: &SocketAddr| App::listen(&lab.host, *target);
    let apps = targets.iter().map(listen).collect::<Result<_>>()?;
    let flags = targets.iter().flat_map(|target| {
        let flag = if target.is_ipv4() { "-4" } else { "-6" };
        [flag.to_owned(), target.to_string()]
    });
    let truepeer = lab.truepeer().no_targets().args(flags).args(args).start()?;
    Ok((lab, apps, truepeer))
}

fn claim(client: SocketAddr) -> Vec<u8> {
    Version::V2.header(client, FRONT.like(client, FRONT_PORT))
}

/// A v2 header of exactly `len` bytes.
fn header_of(len: usize, client: SocketAddr) -> Result<Vec<u8>> {
    let bare = claim(client).len();
    let value = len - bare - 3;
    let tlv = [
        &[0x04],
        &u16::try_from(value)?.to_be_bytes()[..],
        &vec![0; value],
    ]
    .concat();
    Ok(v2(0x21, client, FRONT.like(client, FRONT_PORT), &tlv))
}

/// [V2-13]
#[test]
fn headers_are_taken_up_to_the_cap() -> Result<()> {
    for (args, cap) in [
        (&[][..], 4096),
        (&["--header-max-len", "536"], 536),
        (&["--header-max-len", "65551"], 65_551),
    ] {
        let (lab, apps, _truepeer) = served(&[LOOPBACK.v4(APP_PORT)], args)?;
        let _longest = lab.balancer(&header_of(cap, CLIENT.v4(41000))?)?;
        let accepted = apps[0].accept().with_context(|| format!("{cap} bytes"))?;
        assert_eq!(accepted.1, CLIENT.v4(41000));
        if cap < 65_551 {
            expect_reset(&mut lab.balancer(&header_of(cap + 1, CLIENT.v4(41001))?)?)?;
            apps[0].saw_nobody()?;
            lab.wait_ended(&json!({ "header_too_long": 1 }))?;
        }
    }
    Ok(())
}

/// Headers by which a balancer speaks for itself, or for nobody with an IP address.
fn nobodys() -> [Vec<u8>; 5] {
    [
        v2_raw(0x20, 0x00, b""),
        v2(0x20, CLIENT.v4(41000), FRONT.v4(FRONT_PORT), b""),
        v2_raw(0x21, 0x00, b""),
        v2_raw(0x21, 0x31, &[0; 216]),
        b"PROXY UNKNOWN\r\n".to_vec(),
    ]
}

/// [V1-5] [V2-6] [V2-8] [V2-28]
#[test]
fn without_a_client_the_balancer_is_the_client() -> Result<()> {
    for args in [&[][..], &["--on-local", "balancer"]] {
        let (lab, apps, _truepeer) = served(&[LOOPBACK.v4(APP_PORT)], args)?;
        for header in nobodys() {
            let balancer = lab.balancer(&header)?;
            assert_eq!(apps[0].accept()?.1, balancer.local_addr()?, "{header:?}");
        }
    }
    Ok(())
}

/// [SEC-5] [V2-8]
#[test]
fn without_a_client_a_connection_can_be_refused() -> Result<()> {
    let args = ["--on-local", "reject"];
    let (lab, apps, truepeer) = served(&[LOOPBACK.v4(APP_PORT)], &args)?;
    for header in nobodys() {
        expect_reset(&mut lab.balancer(&header)?).with_context(|| format!("{header:?}"))?;
    }
    apps[0].saw_nobody()?;
    lab.wait_ended(&json!({ "local_refused": nobodys().len() }))?;
    truepeer.wait_line("local_refused")?;

    let _balancer = lab.balancer(&claim(CLIENT.v4(41000)))?;
    assert_eq!(apps[0].accept()?.1, CLIENT.v4(41000));
    Ok(())
}

#[test]
fn a_client_without_a_target_of_its_family_is_refused() -> Result<()> {
    for args in [&[][..], &["--on-no-target", "reject"]] {
        for target in LOOPBACK.both(APP_PORT) {
            let (lab, apps, truepeer) = served(&[target], args)?;
            let (stranger, flag) = if target.is_ipv4() {
                (CLIENT.v6(41000), "--target6")
            } else {
                (CLIENT.v4(41000), "--target4")
            };
            expect_reset(&mut lab.balancer(&claim(stranger))?)?;
            apps[0].saw_nobody()?;
            lab.wait_ended(&json!({ "no_target": 1 }))?;
            let line = truepeer.wait_line("no_target")?;
            ensure!(line.contains(flag), "{line}");
        }
    }
    Ok(())
}

#[test]
fn a_client_without_a_target_of_its_family_can_be_served_from_this_host() -> Result<()> {
    for target in LOOPBACK.both(APP_PORT) {
        let (lab, apps, _truepeer) = served(&[target], &["--on-no-target", "unspoofed"])?;
        let (stranger, own) = if target.is_ipv4() {
            (CLIENT.v6(41000), CLIENT.v4(41001))
        } else {
            (CLIENT.v4(41000), CLIENT.v6(41001))
        };
        let _stranger = lab.balancer(&claim(stranger))?;
        assert_eq!(apps[0].accept()?.1.ip(), target.ip(), "for {stranger}");
        let shown = lab.shown("connections")?;
        assert_eq!(shown[0]["spoofed"], false, "{shown}");
        assert_eq!(shown[0]["client"], stranger.to_string(), "{shown}");
        // the others are none the worse
        let _own = lab.balancer(&claim(own))?;
        assert_eq!(apps[0].accept()?.1, own);
        let counts = lab.counts()?;
        assert_eq!(
            (&counts["opened"], &counts["unspoofed"]),
            (&json!(2), &json!(1))
        );
        // and what can't exist is refused as ever
        expect_reset(&mut lab.balancer(&claim(LOOPBACK.like(stranger, 41002)))?)?;
        apps[0].saw_nobody()?;
    }
    Ok(())
}

#[test]
fn a_client_that_cant_exist_can_be_served_from_this_host() -> Result<()> {
    let targets = LOOPBACK.both(APP_PORT);
    let (lab, apps, _truepeer) = served(&targets, &["--on-martian", "unspoofed"])?;
    for martian in ["127.0.0.1", "224.0.0.1", "::1", "ff02::1", "fe80::1"] {
        let martian = SocketAddr::new(martian.parse()?, 41000);
        let app = &apps[usize::from(martian.is_ipv6())];
        for version in Version::BOTH {
            let header = version.header(martian, FRONT.like(martian, FRONT_PORT));
            let _balancer = lab.balancer(&header)?;
            let (_stream, peer) = app.accept().with_context(|| martian.to_string())?;
            assert_eq!(peer.ip(), LOOPBACK.like(martian, 0).ip(), "for {martian}");
            // its own would be 41000
            assert_ne!(peer.port(), martian.port());
        }
    }
    for client in CLIENT.both(41001) {
        let _balancer = lab.balancer(&claim(client))?;
        assert_eq!(apps[usize::from(client.is_ipv6())].accept()?.1, client);
    }
    Ok(())
}

/// A host that calls its own public name, or a container behind its bridge: from no other address, and
/// never from loopback.
#[test]
fn a_client_on_this_very_host_is_served_from_its_address() -> Result<()> {
    let targets = LOOPBACK.both(APP_PORT);
    let (lab, apps, truepeer) = served(&targets, &[])?;
    for own in HOST.both(41000) {
        for version in Version::BOTH {
            let balancer = lab.balancer(&version.header(own, FRONT.like(own, FRONT_PORT)))?;
            let (app, peer) = apps[usize::from(own.is_ipv6())].accept()?;
            assert_eq!(peer.ip(), own.ip());
            Talk { balancer, app }.round_trip()?;
        }
    }
    let counts = lab.counts()?;
    assert_eq!(
        (&counts["opened"], &counts["unspoofed"]),
        (&json!(4), &json!(4))
    );
    // but from none that isn't a device's own
    expect_reset(&mut lab.balancer(&claim("198.51.100.255:41000".parse()?))?)?;
    truepeer.wait_line("client_broadcast").map(drop)
}

/// As one that is a device's. IPv6 has an address that is each router's of a link.
#[test]
fn a_client_who_is_this_host_by_a_route_is_served_from_its_address() -> Result<()> {
    let lab = Lab::new()?;
    ip(
        &lab.host,
        "-4 route add local 192.0.2.0/24 dev lo
         -6 route add local 2001:db8:2::/64 dev lo",
    )?;
    sysctl(&lab.host, "ipv6/conf/all/forwarding", "1")?;
    let (lab, apps, _truepeer) = served_in(lab, &LOOPBACK.both(APP_PORT), &[])?;
    let all_routers = "[2001:db8:e::]:41000".parse()?;
    for own in LATER.both(41000).into_iter().chain([all_routers]) {
        let balancer = lab.balancer(&claim(own))?;
        let (app, peer) = apps[usize::from(own.is_ipv6())].accept()?;
        assert_eq!(peer.ip(), own.ip());
        Talk { balancer, app }.round_trip()?;
    }
    assert_eq!(lab.counts()?["unspoofed"], json!(3));
    Ok(())
}

/// The client's family and that of the balancer's connection have nothing to do with each other.
/// [V1-8] [V1-9]
#[test]
fn any_client_over_any_balancer_connection() -> Result<()> {
    let targets = LOOPBACK.both(APP_PORT);
    let (lab, apps, _truepeer) = served(&targets, &[])?;
    let mapped = |port| SocketAddr::new("::ffff:203.0.113.9".parse().expect("an address"), port);
    let front = SocketAddr::new("::ffff:203.0.113.1".parse()?, FRONT_PORT);
    let mut port = 41000;
    for to in HOST.both(TRUEPEER_PORT) {
        for version in Version::BOTH {
            for (claimed, destination, seen) in [
                (CLIENT.v4(port), FRONT.v4(FRONT_PORT), CLIENT.v4(port)),
                (CLIENT.v6(port), FRONT.v6(FRONT_PORT), CLIENT.v6(port)),
                (mapped(port + 1), front, CLIENT.v4(port + 1)),
            ] {
                let case = format!("{claimed} by {version:?} over {to}");
                let balancer = lab.balancer_to(to, &version.header(claimed, destination))?;
                let app = &apps[usize::from(seen.is_ipv6())];
                let (_stream, peer) = app.accept().context(case.clone())?;
                assert_eq!(peer, seen, "{case}");
                assert_eq!(balancer.local_addr()?.ip(), BALANCER.like(to, 0).ip());
            }
            port += 2;
        }
    }
    Ok(())
}

/// An IPv4 client in IPv6 clothes needs an IPv4 target.
#[test]
fn a_mapped_client_is_an_ipv4_client() -> Result<()> {
    let (lab, apps, _truepeer) = served(&[LOOPBACK.v6(APP_PORT)], &[])?;
    let mapped = SocketAddr::new("::ffff:203.0.113.9".parse()?, 41000);
    for version in Version::BOTH {
        let header = version.header(mapped, FRONT.v6(FRONT_PORT));
        expect_reset(&mut lab.balancer(&header)?)?;
    }
    apps[0].saw_nobody()?;
    lab.wait_ended(&json!({ "no_target": 2 }))
}
