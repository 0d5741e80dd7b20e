//! Inside a container or pod: the host that truepeer sees is its namespace, and no sysctl can be set.

use std::fs;

use anyhow::{Result, ensure};

use super::{Bound, LOOPBACK_V4, LOOPBACK_V6, Talk, WILDCARD_V4, WILDCARD_V6, datagrams, services};
use crate::lab::Lab;
use crate::lab::app::App;
use crate::lab::datagram::{Echo, Framing, Kind};
use crate::lab::header::Version;
use crate::lab::leaks::Leaks;
use crate::lab::proc::Proc;
use crate::lab::truepeer::Truepeer;

macro_rules! container {
    ($($name:ident $app:ident;)*) => { $(
        mod $name {
            use super::*;
            #[test] fn tcp() -> Result<()> { holds_in_a_container($app) }
            #[test] fn udp() -> Result<()> { hold_in_a_container($app) }
        }
    )* };
}

container! {
    wildcard_v4 WILDCARD_V4;
    loopback_v4 LOOPBACK_V4;
    wildcard_v6 WILDCARD_V6;
    loopback_v6 LOOPBACK_V6;
}

fn holds_in_a_container(bound: Bound) -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, bound.to)?;
    let truepeer = start(lab.truepeer().targets_for(bound.to))?;
    truepeer.wait_line("no TUN device")?;
    Talk::open(&lab, &app, bound.client, Version::V2)?.round_trip()
}

/// Datagrams need no TUN device.
fn hold_in_a_container(bound: Bound) -> Result<()> {
    let lab = Lab::new()?;
    let app = Echo::listen(&lab.host, bound.to, Kind::Unconnected)?;
    let leaks = Leaks::watch(&lab.edge)?;
    let _truepeer = start(
        lab.truepeer()
            .targets_for(bound.to)
            .args(Framing::V2.args()),
    )?;
    for service in services(&lab) {
        datagrams::sees(&lab, service, &app, bound.client)?;
    }
    leaks.saw_none()
}

fn start(truepeer: Truepeer) -> Result<Proc> {
    let truepeer = truepeer.in_container().start()?;
    let pid = truepeer.pid().as_raw_nonzero();
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts"))?;
    let mut sys = mounts.lines().filter(|line| line.contains(" /proc/sys "));
    ensure!(
        sys.any(|line| line.contains(" ro,")),
        "/proc/sys can be written: {mounts}"
    );
    Ok(truepeer)
}
