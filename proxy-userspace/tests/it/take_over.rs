//! What a take-over is refused for, who has to hear of one, and what goes on without.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use socket2::SockRef;

use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, TRUEPEER_PORT, WILDCARD,
};
use crate::lab::app::{App, Echo};
use crate::lab::header::Version;
use crate::lab::keeper::Between;
use crate::lab::poll::{self, PATIENCE};
use crate::lab::proc::Proc;
use crate::lab::stream::{expect_reset, round_trip};
use crate::lab::talk::Talk;

fn apps(lab: &Lab) -> Result<[Echo; 2]> {
    let [v4, v6] = LOOPBACK.both(APP_PORT);
    Ok([Echo::start(&lab.host, v4)?, Echo::start(&lab.host, v6)?])
}

fn connect(lab: &Lab, client: SocketAddr) -> Result<TcpStream> {
    let header = Version::V2.header(client, FRONT.like(client, FRONT_PORT));
    let mut stream = lab.balancer_to(HOST.like(client, TRUEPEER_PORT), &header)?;
    round_trip(&mut stream, b"hello")?;
    Ok(stream)
}

fn connect_both(lab: &Lab, port: u16) -> Result<Vec<TcpStream>> {
    let clients = CLIENT.both(port);
    clients.iter().map(|client| connect(lab, *client)).collect()
}

fn all_talk(open: &mut [TcpStream], words: &[u8]) -> Result<()> {
    let mut open = open.iter_mut();
    open.try_for_each(|stream| round_trip(stream, words))
}

#[test]
fn of_maps_of_another_layout_is_refused_and_does_no_harm() -> Result<()> {
    let lab = Lab::new()?;
    let _apps = apps(&lab)?;
    let truepeer = lab.truepeer().orphan_timeout("10s");
    let mut daemon = truepeer.start()?;
    let mut open = connect_both(&lab, 20_000)?;

    let between = Between::place(&lab, |said| said.replace("\"layout\":", "\"layout\":9"))?;
    let taker = truepeer.clone().args(["--take-over"]);
    let parts = [
        "no take-over",
        lab.instance(),
        "maps of layout 9",
        "stop it",
    ];
    taker.run_to_end()?.expect(1, &parts)?;
    between.leave()?;

    all_talk(&mut open, b"still there")?;
    open.extend(connect_both(&lab, 20_001)?);
    ensure!(daemon.is_running()?, "{:?}", daemon.log());
    // Nor is the keeper left with anything of it.
    let next = taker.start()?;
    daemon.wait_line("replaced by another daemon")?;
    all_talk(&mut open, b"and with the next one")?;
    drop(open);
    end(next)
}

/// Applications would answer from addresses that nobody steers, to the real clients.
#[test]
fn with_another_steer_network_is_refused_and_does_no_harm() -> Result<()> {
    let lab = Lab::new()?;
    let _apps = apps(&lab)?;
    let truepeer = lab.truepeer().orphan_timeout("10s");
    let daemon = truepeer.start()?;
    let mut open = connect_both(&lab, 20_000)?;
    for (flag, net, old) in [
        ("--steer4", "169.254.90.0/28", "169.254.80.80"),
        ("--steer6", "fd74:7275:6570:9::/112", "fd74:7275:6570::1"),
    ] {
        let taker = truepeer.clone().args([flag, net, "--take-over"]);
        taker
            .run_to_end()?
            .expect(1, &["no take-over", lab.instance(), old, flag, "stop it"])?;
    }
    all_talk(&mut open, b"still there")?;
    drop(open);
    end(daemon)
}

/// Paths and ports are of new connections.
#[test]
fn with_other_flags_cuts_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let _apps = apps(&lab)?;
    let truepeer = lab.truepeer().orphan_timeout("10s");
    let first = truepeer.start()?;
    let mut open = connect_both(&lab, 20_000)?;
    ensure!(paths(&lab)? == ["direct"; 2]);

    let by_daemon = truepeer.clone().by_daemon().args(["--take-over"]).start()?;
    first.wait_line("replaced by another daemon")?;
    open.extend(connect_both(&lab, 20_001)?);
    ensure!(paths(&lab)? == ["daemon", "daemon", "direct", "direct"]);
    all_talk(&mut open, b"without direct ones")?;

    let elsewhere = HOST.both(TRUEPEER_PORT + 1);
    let elsewhere = truepeer.clone().listen(elsewhere).args(["--take-over"]);
    let elsewhere = elsewhere.start()?;
    by_daemon.wait_line("replaced by another daemon")?;
    all_talk(&mut open, b"at another port")?;
    drop(open);
    end(elsewhere)
}

/// Each of them hears what it says, whatever the one before it heard.
#[test]
fn at_another_address_of_the_same_port_serves_there() -> Result<()> {
    let lab = Lab::new()?;
    let _apps = apps(&lab)?;
    let truepeer = |listen: &[SocketAddr]| {
        let listen = listen.iter().copied();
        lab.truepeer().listen(listen).by_daemon()
    };
    let [any4, any6] = WILDCARD.both(TRUEPEER_PORT);
    let mut daemon = truepeer(&[any4]).start()?;
    let mut replaced = Vec::new();
    let mut open = vec![connect(&lab, CLIENT.v4(20_000))?];
    let next: [&[SocketAddr]; 5] = [
        &[HOST.v4(TRUEPEER_PORT)],
        &[any6],
        &[any6, any4],
        &[any6],
        &[any4],
    ];
    for (port, listen) in (20_001..).zip(next) {
        let other = truepeer(listen).args(["--take-over"]).start()?;
        daemon.wait_line("replaced by another daemon")?;
        // Its own connections go on.
        replaced.push(std::mem::replace(&mut daemon, other));
        open.push(connect(&lab, CLIENT.v4(port)).with_context(|| format!("{listen:?}"))?);
        if listen.contains(&any6) {
            open.push(connect(&lab, CLIENT.v6(port)).with_context(|| format!("{listen:?}"))?);
        }
        all_talk(&mut open, b"still there")?;
    }
    drop(open);
    end(daemon)
}

/// Of the open connections, in order.
fn paths(lab: &Lab) -> Result<Vec<String>> {
    let shown = lab.shown("connections")?;
    let paths = shown.as_array().into_iter().flatten();
    let mut paths: Vec<_> = paths
        .filter_map(|one| one["path"].as_str().map(str::to_owned))
        .collect();
    paths.sort_unstable();
    Ok(paths)
}

/// In order, as nobody waits for its keeper then.
fn end(mut daemon: Proc) -> Result<()> {
    daemon.signal(Signal::TERM)?;
    ensure!(daemon.wait_exit()?.code() == Some(0), "{:?}", daemon.log());
    Ok(())
}

/// What stands for the application's own care: the program is there while no daemon is.
#[test]
fn isnt_needed_for_new_connections_to_be_kept_alive() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let truepeer = lab.truepeer().orphan_timeout("10s");
    let mut daemon = truepeer.start()?;
    daemon.kill()?;
    let mut talk = Talk::open(&lab, &app, CLIENT.v4(20_000), Version::V2)?;
    talk.round_trip()?;
    ensure!(SockRef::from(&talk.app).keepalive()?);
    let next = truepeer.start()?;
    drop(talk);
    end(next)
}

/// What goes through the replaced daemon can't go on without it.
#[test]
fn leaves_the_replaced_daemon_to_end_its_own_at_a_signal() -> Result<()> {
    let lab = Lab::new()?;
    let _apps = apps(&lab)?;
    let truepeer = lab.truepeer().args(["--direct", "off"]);
    let mut daemon = truepeer.start()?;
    let mut open = connect_both(&lab, 20_000)?;
    let next = truepeer.args(["--take-over"]).start()?;
    daemon.wait_line("replaced by another daemon")?;
    all_talk(&mut open, b"still there")?;
    // Should the next one die, this one doesn't let anybody in.
    poll::until("its sign of life to end", || {
        Ok((!daemon.threads()?.contains("heart")).then_some(()))
    })?;
    ensure!(next.threads()?.contains("heart"), "{:?}", next.threads()?);
    daemon.signal(Signal::TERM)?;
    for stream in &mut open {
        expect_reset(stream)?;
    }
    ensure!(daemon.wait_exit()?.code() == Some(0), "{:?}", daemon.log());
    end(next)
}

/// Both its programs and the namespace are what that needs.
#[test]
fn has_a_drain_wait_for_what_the_replaced_daemon_still_relays() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let truepeer = lab.truepeer().by_daemon();
    let mut replaced = truepeer.start()?;
    let mut talk = Talk::open(&lab, &app, CLIENT.v4(20_000), Version::V2)?;
    let mut daemon = truepeer.args(["--take-over"]).start()?;
    replaced.wait_line("replaced by another daemon")?;
    daemon.signal(Signal::TERM)?;
    daemon.wait_line("draining")?;
    talk.ping_pong(64, 100)?;
    ensure!(daemon.is_running()?, "it has left a connection behind");
    drop(talk);
    for daemon in [&mut daemon, &mut replaced] {
        assert_eq!(daemon.wait_exit()?.code(), Some(0));
    }
    lab.no_device_left()
}

#[test]
fn is_told_to_the_service_manager_by_the_process_that_it_believes() -> Result<()> {
    let lab = Lab::new()?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(PATIENCE))?;
    let truepeer = lab.truepeer();
    let mut daemon = truepeer.clone().tells(&path).start()?;
    ensure!(heard(&manager)? == "READY=1\n");

    let next = truepeer.args(["--take-over"]).start()?;
    ensure!(heard(&manager)? == format!("MAINPID={}\n", next.pid()));
    ensure!(daemon.wait_exit()?.code() == Some(0), "{:?}", daemon.log());
    manager.set_nonblocking(true)?;
    let more = heard(&manager).ok();
    ensure!(more.is_none(), "the service isn't stopping: {more:?}");
    end(next)
}

fn heard(manager: &UnixDatagram) -> Result<String> {
    let mut text = [0; 512];
    let length = manager.recv(&mut text).context("nothing was told")?;
    Ok(String::from_utf8(text[..length].to_vec())?)
}
