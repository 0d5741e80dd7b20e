//! Starting, stopping, dying.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, TRUEPEER_PORT};
use crate::lab::app::{App, Echo};
use crate::lab::header::Version;
use crate::lab::poll;
use crate::lab::proc::Proc;
use crate::lab::stream::{expect_end, expect_reset, has_closed, read_greeting, round_trip};
use crate::lab::{Lab, has_tcx};

struct Served {
    lab: Lab,
    _app: Echo,
}

impl Served {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let _app = Echo::greeting(&lab.host, LOOPBACK.v4(APP_PORT))?;
        Ok(Self { lab, _app })
    }

    fn start(&self, args: &[&str]) -> Result<Proc> {
        self.lab.truepeer().args(args).start()
    }

    fn open(&self, port: u16) -> Result<TcpStream> {
        let client = CLIENT.v4(port);
        let header = Version::V2.header(client, FRONT.v4(FRONT_PORT));
        let mut stream = self.lab.balancer(&header)?;
        assert_eq!(read_greeting(&mut stream)?, client);
        Ok(stream)
    }
}

#[test]
fn an_idle_daemon_stops_and_leaves_nothing() -> Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let served = Served::new()?;
        let mut truepeer = served.start(&[])?;
        drop(served.open(41000)?);
        truepeer.signal(signal)?;
        assert_eq!(truepeer.wait_exit()?.code(), Some(0), "{signal:?}");
        served.lab.no_device_left()?;
        served.lab.no_socket_left()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs a kernel before 6.6: cargo xtask test --kernel 6.1 lifecycle"]
fn where_there_is_no_tcx_there_is_no_take_over() -> Result<()> {
    ensure!(!has_tcx()?, "this kernel has tcx");
    let served = Served::new()?;
    let _running = served.start(&[])?;
    let next = served.lab.truepeer().args(["--take-over"]).run_to_end()?;
    next.expect(1, &["no take-over", "before 6.6"])?;
    round_trip(&mut served.open(41000)?, b"undisturbed")
}

/// Nothing can be served without them, so it is better to be started again.
#[test]
fn without_one_of_its_devices_it_ends_and_says_so() -> Result<()> {
    let own = |lab: &Lab| -> Result<Vec<String>> {
        let all = lab.host.devices()?.into_iter();
        Ok(all.filter(|name| name.starts_with("truepeer")).collect())
    };
    for number in 0.. {
        let served = Served::new()?;
        let mut truepeer = served.start(&[])?;
        let mut open = served.open(41000)?;
        let devices = own(&served.lab)?;
        ensure!(!devices.is_empty(), "it has no device");
        let Some(device) = devices.get(number) else {
            break;
        };
        served.lab.host.ip(&format!("link del {device}"))?;
        ensure!(truepeer.wait_exit()?.code() == Some(1), "{device}");
        truepeer.wait_line(&format!("device {device} was removed"))?;
        // Without its address the application may not be able to say that it is over: then the next
        // byte does.
        let is_over = open.write_all(b"still there?").is_err();
        ensure!(is_over || expect_reset(&mut open).is_ok(), "{device}");
        served.lab.no_device_left()?;
    }
    Ok(())
}

#[test]
fn sigterm_lets_open_connections_finish() -> Result<()> {
    let served = Served::new()?;
    let mut truepeer = served.start(&[])?;
    let mut open = served.open(41000)?;
    truepeer.signal(Signal::TERM)?;
    truepeer.wait_line("draining")?;

    round_trip(&mut open, b"still served")?;
    ensure!(truepeer.is_running()?, "it left an open connection behind");
    open.shutdown(Shutdown::Write)?;
    expect_end(&mut open)?;
    assert_eq!(truepeer.wait_exit()?.code(), Some(0));
    Ok(())
}

#[test]
fn a_second_sigterm_stops_at_once() -> Result<()> {
    stops_at_once(Signal::TERM)
}

#[test]
fn a_second_sigint_stops_at_once() -> Result<()> {
    stops_at_once(Signal::INT)
}

/// At once: long before the drain timeout, which is longer than any deadline here.
fn stops_at_once(signal: Signal) -> Result<()> {
    let served = Served::new()?;
    let mut truepeer = served.start(&["--drain-timeout", "600s"])?;
    let mut open = served.open(41000)?;
    truepeer.signal(signal)?;
    truepeer.wait_line("draining")?;
    round_trip(&mut open, b"still served")?;

    truepeer.signal(signal)?;
    let status = truepeer.wait_exit()?;
    ensure!(status.code().is_some(), "killed by a signal: {status}");
    ensure!(has_closed(&mut open), "the connection outlived the daemon");
    served.lab.no_device_left()
}

#[test]
fn the_drain_timeout_ends_a_drain() -> Result<()> {
    let served = Served::new()?;
    let mut truepeer = served.start(&["--drain-timeout", "3s"])?;
    let mut open = served.open(41000)?;
    truepeer.signal(Signal::TERM)?;
    truepeer.wait_line("draining")?;
    round_trip(&mut open, b"still served")?;
    assert_eq!(truepeer.wait_exit()?.code(), Some(0));
    ensure!(has_closed(&mut open), "the connection outlived the daemon");
    Ok(())
}

#[test]
fn kill_leaves_nothing_and_the_next_start_works_at_once() -> Result<()> {
    let served = Served::new()?;
    let known = namespaces(&served.lab)?;
    let mut truepeer = served.start(&[])?;
    let mut open = served.open(41000)?;
    // Links keep their programs, so that either kind may be all that there is to see.
    let programs = truepeer.fd_info("prog_id")?;
    let links = truepeer.fd_info("link_id")?;
    ensure!(!programs.is_empty() && !links.is_empty(), "nothing to see");
    assert_eq!(count_existing("prog", &programs)?, programs.len());
    assert_eq!(count_existing("link", &links)?, links.len());
    ensure!(served.lab.host.devices()?.contains("truepeer0"));
    ensure!(namespaces(&served.lab)? != known, "no spoof namespace");

    truepeer.signal(Signal::KILL)?;
    truepeer.wait_exit()?;
    ensure!(has_closed(&mut open), "the connection outlived the daemon");
    let mut next = served.start(&[])?;
    round_trip(&mut served.open(41001)?, b"served again")?;
    // Without tcx a killed daemon's filters stay, and go with an orderly end of the next one's.
    let last = if has_tcx()? {
        Signal::KILL
    } else {
        Signal::TERM
    };
    next.signal(last)?;
    next.wait_exit()?;

    served.lab.no_device_left()?;
    poll::until("the namespace to go", || {
        Ok((namespaces(&served.lab)? == known).then_some(()))
    })?;
    poll::until("programs and links to go", || {
        let left = count_existing("prog", &programs)? + count_existing("link", &links)?;
        Ok((left == 0).then_some(()))
    })
}

/// Whatever it has left, once the programs know that it is gone.
#[test]
fn a_killed_daemon_stands_in_nobody_s_way() -> Result<()> {
    let served = Served::new()?;
    let mut truepeer = served.start(&[])?;
    drop(served.open(41000)?);
    truepeer.signal(Signal::KILL)?;
    truepeer.wait_exit()?;
    served.lab.no_device_left()?;
    sleep(Duration::from_secs(3));
    let other = App::listen(&served.lab.host, HOST.v4(TRUEPEER_PORT))?;
    let _balancer = served.lab.balancer(b"hello")?;
    other.accept().map(drop)
}

/// The namespaces that the host has a number for: those at the other end of a device of its own.
fn namespaces(lab: &Lab) -> Result<String> {
    lab.host.run("ip netns list-id")
}

/// How many of these the kernel still has.
fn count_existing(kind: &str, ids: &BTreeSet<u64>) -> Result<usize> {
    ids.iter()
        .try_fold(0, |count, id| Ok(count + usize::from(exists(kind, *id)?)))
}

/// Does the kernel have this program or link?
fn exists(kind: &str, id: u64) -> Result<bool> {
    let output = Command::new("bpftool")
        .args(["-j", kind, "show", "id", &id.to_string()])
        .output()?;
    Ok(output.status.success())
}

#[test]
fn two_instances_serve_side_by_side() -> Result<()> {
    let served = Served::new()?;
    let _first = served.start(&[])?;
    let second = served.lab.truepeer().instance_suffix("-b");
    let mut second = second.listen([HOST.v4(7001)]).start()?;

    round_trip(&mut served.open(41000)?, b"by the first")?;
    let client = CLIENT.v4(41001);
    let header = Version::V2.header(client, FRONT.v4(FRONT_PORT));
    let mut other = served.lab.balancer_to(HOST.v4(7001), &header)?;
    assert_eq!(read_greeting(&mut other)?, client);
    drop(other);

    second.signal(Signal::TERM)?;
    assert_eq!(second.wait_exit()?.code(), Some(0));
    round_trip(&mut served.open(41002)?, b"still by the first")
}
