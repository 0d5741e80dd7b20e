//! What others have in tc stays theirs. Kernels before 6.6 have truepeer's programs there as well.

use std::fs;

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, LOOPBACK};
use crate::lab::app::Echo;
use crate::lab::header::Version;
use crate::lab::netns::Netns;
use crate::lab::stream::{read_greeting, round_trip};

/// On the devices that truepeer attaches to and that outlive it.
fn of_the_host(host: &Netns) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for device in ["lo", "edge"] {
        found.push(host.run(&format!("tc qdisc show dev {device}"))?);
        for hook in ["ingress", "egress"] {
            found.push(host.run(&format!("tc filter show dev {device} {hook}"))?);
        }
    }
    Ok(found)
}

fn serve(lab: &Lab, port: u16) -> Result<()> {
    let client = CLIENT.v4(port);
    let header = Version::V2.header(client, FRONT.v4(FRONT_PORT));
    let mut balancer = lab.balancer(&header)?;
    assert_eq!(read_greeting(&mut balancer)?, client);
    round_trip(&mut balancer, b"hello")
}

#[test]
fn qdiscs_and_filters_of_others_stay() -> Result<()> {
    let lab = Lab::new()?;
    let _app = Echo::greeting(&lab.host, LOOPBACK.v4(APP_PORT))?;
    // Neither filter ever matches. One is of our kind, with the first priority; the other is of
    // another kind, which shares its priority with nobody.
    let bytecode = tempfile::NamedTempFile::new()?;
    fs::write(&bytecode, "1,6 0 0 0,")?;
    let path = bytecode.path().display();
    for line in [
        "tc qdisc add dev edge clsact",
        &format!("tc filter add dev edge egress pref 1 bpf bytecode-file {path} classid 1:1"),
        "tc qdisc add dev lo clsact",
        "tc filter add dev lo ingress pref 1 u32 match u32 0xdeadbeef 0xffffffff classid 1:1",
    ] {
        lab.host.run(line)?;
    }
    let before = of_the_host(&lab.host)?;
    ensure!(
        before
            .iter()
            .filter(|said| said.contains("pref 1 "))
            .count()
            == 2,
        "{before:?}"
    );

    let mut truepeer = lab.truepeer().start()?;
    serve(&lab, 41000)?;
    truepeer.signal(Signal::TERM)?;
    truepeer.wait_exit()?;
    assert_eq!(before, of_the_host(&lab.host)?);
    Ok(())
}

#[test]
fn what_a_kill_leaves_the_next_start_takes_over() -> Result<()> {
    let lab = Lab::new()?;
    let _app = Echo::greeting(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let before = of_the_host(&lab.host)?;
    for port in [41000, 41001] {
        let mut killed = lab.truepeer().start()?;
        serve(&lab, port)?;
        killed.signal(Signal::KILL)?;
        killed.wait_exit()?;
        lab.no_device_left()?;
    }
    let mut truepeer = lab.truepeer().start()?;
    serve(&lab, 41002)?;
    truepeer.signal(Signal::TERM)?;
    truepeer.wait_exit()?;
    assert_eq!(before, of_the_host(&lab.host)?);
    Ok(())
}
