//! What happens to the bytes of a connection, and to its two ends.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, LOOPBACK};
use crate::lab::app::{App, Echo};
use crate::lab::header::Version;
use crate::lab::payload::Payload;
use crate::lab::poll;
use crate::lab::proc::Proc;
use crate::lab::scale::scaled;
use crate::lab::stall::fill;
use crate::lab::stream::{
    expect, expect_end, expect_reset, has_closed, read_greeting, read_line, reset, round_trip,
};
use crate::lab::talk::Talk;

const MIB: usize = 1024 * 1024;
const BULK: usize = 100_000_000;
/// More than all socket buffers of the way together may hold when nobody reads.
const IN_FLIGHT_MOST: usize = 64 * MIB;

/// In the order of dropping: the lab checks what the daemon has left.
struct Served {
    truepeer: Proc,
    app: App,
    lab: Lab,
}

impl Served {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
        let truepeer = lab.truepeer().start()?;
        Ok(Self { truepeer, app, lab })
    }

    /// Both ends of a connection that is known to be through: the balancer's and the app's.
    fn connection(&self, port: u16) -> Result<(TcpStream, TcpStream)> {
        let header = Version::V2.header(CLIENT.v4(port), FRONT.v4(FRONT_PORT));
        let mut balancer = self.lab.balancer(&header)?;
        let (mut app, peer) = self.app.accept()?;
        assert_eq!(peer.ip(), CLIENT.v4);
        balancer.write_all(b"?")?;
        expect(&mut app, b"?")?;
        app.write_all(b"!")?;
        expect(&mut balancer, b"!")?;
        Ok((balancer, app))
    }
}

#[test]
fn bulk_each_way_at_once() -> Result<()> {
    let served = Served::new()?;
    let (balancer, app) = served.connection(41000)?;
    let (up, down) = (Payload::new(1), Payload::new(2));
    thread::scope(|scope| {
        let ends = [
            scope.spawn(|| send_all(&balancer, &up, BULK).context("balancer sends")),
            scope.spawn(|| send_all(&app, &down, BULK).context("app sends")),
            scope.spawn(|| up.receive(&mut &app, BULK).context("app reads")),
            scope.spawn(|| down.receive(&mut &balancer, BULK).context("balancer reads")),
        ];
        ends.into_iter()
            .try_for_each(|end| end.join().expect("no panic on the way"))
    })
}

fn transfer(from: &TcpStream, to: &mut TcpStream, payload: &Payload, length: usize) -> Result<()> {
    thread::scope(|scope| {
        let sender = scope.spawn(|| send_all(from, payload, length));
        payload.receive(to, length)?;
        sender.join().expect("no panic on the way")
    })
}

fn send_all(mut to: &TcpStream, payload: &Payload, length: usize) -> Result<()> {
    payload.send(&mut to, length)?;
    Ok(to.shutdown(Shutdown::Write)?)
}

#[test]
fn a_late_reply_arrives_after_half_close() -> Result<()> {
    let served = Served::new()?;
    let reply = Payload::new(3);
    let (mut client, mut app) = served.connection(41000)?;
    client.shutdown(Shutdown::Write)?;
    expect_end(&mut app)?;
    // Late: what follows begins after the end has come all the way through.
    transfer(&app, &mut client, &reply, 8 * MIB)
}

#[test]
fn the_app_may_end_first_and_listen_on() -> Result<()> {
    let served = Served::new()?;
    let question = Payload::new(4);
    let (mut client, mut app) = served.connection(41000)?;
    app.shutdown(Shutdown::Write)?;
    expect_end(&mut client)?;
    transfer(&client, &mut app, &question, 8 * MIB)
}

#[test]
fn a_stalled_app_stops_the_client() -> Result<()> {
    let served = Served::new()?;
    let (client, app) = served.connection(41000)?;
    stalled_reader(&served.truepeer, client, app)
}

#[test]
fn a_stalled_client_stops_the_app() -> Result<()> {
    let served = Served::new()?;
    let (client, app) = served.connection(41000)?;
    stalled_reader(&served.truepeer, app, client)
}

/// Nothing on the way may take what nobody reads; and what it took arrives in the end.
fn stalled_reader(truepeer: &Proc, mut writer: TcpStream, mut reader: TcpStream) -> Result<()> {
    let payload = Payload::new(5);
    let before = truepeer.memory()?;
    let taken = fill(&writer, &payload, 0, IN_FLIGHT_MOST)?;
    let grown = truepeer.memory()?.saturating_sub(before);
    ensure!(
        usize::try_from(grown)? < 16 * MIB,
        "truepeer grew by {grown} bytes"
    );
    thread::scope(|scope| {
        let rest = scope.spawn(|| {
            payload.send_from(&mut writer, taken, taken + MIB)?;
            anyhow::Ok(writer.shutdown(Shutdown::Write)?)
        });
        payload.receive(&mut reader, taken + MIB)?;
        rest.join().expect("no panic on the way")
    })
}

#[test]
fn a_slow_starter_gets_everything() -> Result<()> {
    const REST: usize = 16 * MIB;
    let served = Served::new()?;
    let payload = Payload::new(6);
    let (mut client, mut app) = served.connection(41000)?;
    let taken = fill(&client, &payload, 0, IN_FLIGHT_MOST)?;
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            payload.send_from(&mut &client, taken, taken + REST)?;
            anyhow::Ok(client.shutdown(Shutdown::Write)?)
        });
        payload.receive(&mut app, taken + REST)?;
        sender.join().expect("no panic on the way")
    })?;
    let reply = Payload::new(7);
    transfer(&app, &mut client, &reply, MIB)
}

#[test]
fn a_reset_by_the_client_is_a_reset_for_the_app() -> Result<()> {
    let served = Served::new()?;
    let (client, mut app) = served.connection(41000)?;
    reset(client)?;
    expect_reset(&mut app)
}

#[test]
fn a_reset_by_the_app_is_a_reset_for_the_client() -> Result<()> {
    let served = Served::new()?;
    let (mut client, app) = served.connection(41000)?;
    reset(app)?;
    expect_reset(&mut client)
}

#[test]
fn a_reset_after_half_close_still_passes() -> Result<()> {
    let served = Served::new()?;
    let (mut client, mut app) = served.connection(41000)?;
    client.shutdown(Shutdown::Write)?;
    expect_end(&mut app)?;
    reset(app)?;
    expect_reset(&mut client)?;

    let (mut client, mut app) = served.connection(41001)?;
    app.shutdown(Shutdown::Write)?;
    expect_end(&mut client)?;
    reset(client)?;
    expect_reset(&mut app)
}

#[test]
fn nobody_at_the_target_closes_the_connection() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let _truepeer = lab.truepeer().start()?;
    let mut balancer = lab.balancer(b"")?;
    // Later than the SYN, which would be refused.
    drop(app);
    let header = Version::V2.header(CLIENT.v4(41000), FRONT.v4(FRONT_PORT));
    balancer.write_all(&header)?;
    ensure!(has_closed(&mut balancer), "left open");
    Ok(())
}

#[test]
fn a_busy_client_port_falls_back_to_another() -> Result<()> {
    let served = Served::new()?;
    let header = Version::V2.header(CLIENT.v4(41000), FRONT.v4(FRONT_PORT));
    let mut first = served.lab.balancer(&header)?;
    let (mut first_app, first_peer) = served.app.accept()?;
    let mut second = served.lab.balancer(&header)?;
    let (mut second_app, second_peer) = served.app.accept()?;

    assert_eq!(first_peer, CLIENT.v4(41000));
    assert_eq!(second_peer.ip(), CLIENT.v4);
    assert_ne!(second_peer.port(), 41000);
    for (client, app) in [(&mut first, &mut first_app), (&mut second, &mut second_app)] {
        client.write_all(b"mine\n")?;
        ensure!(read_line(app)? == "mine");
        app.write_all(b"yours\n")?;
        ensure!(read_line(client)? == "yours");
    }
    Ok(())
}

/// A client may come back from the same port right after its connection has ended, whoever ended it.
#[test]
fn a_client_port_can_be_used_again() -> Result<()> {
    for app_ends_first in [true, false] {
        let served = Served::new()?;
        for round in 0..5 {
            let case = || format!("round {round}, app ends first: {app_ends_first}");
            let (client, app) = served.connection(41000).with_context(case)?;
            let (mut first, mut second) = if app_ends_first {
                (app, client)
            } else {
                (client, app)
            };
            first.shutdown(Shutdown::Write)?;
            expect_end(&mut second).with_context(case)?;
            second.shutdown(Shutdown::Write)?;
            expect_end(&mut first).with_context(case)?;
        }
    }
    Ok(())
}

/// [G-11] Each client has an upstream connection of its own.
#[test]
fn hundreds_at_once() -> Result<()> {
    let lab = Lab::new()?;
    let _app = Echo::greeting(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let _truepeer = lab.truepeer().start()?;
    let mut open = Vec::new();
    for port in 20_000..20_000 + scaled(400, 4_000) {
        let client = CLIENT.v4(port);
        let header = Version::V2.header(client, FRONT.v4(FRONT_PORT));
        open.push((client, lab.balancer(&header)?));
    }
    for (client, stream) in &mut open {
        assert_eq!(read_greeting(stream)?, *client);
    }
    let message = vec![7; 10_000];
    for (client, stream) in &mut open {
        round_trip(stream, &message).with_context(|| client.to_string())?;
    }
    for (client, stream) in &mut open {
        stream.shutdown(Shutdown::Write)?;
        expect_end(stream).with_context(|| client.to_string())?;
    }
    Ok(())
}

#[test]
fn maxconn_holds_and_lets_in_again() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let _truepeer = lab.truepeer().args(["--maxconn", "2"]).start()?;
    let header = |port| Version::V2.header(CLIENT.v4(port), FRONT.v4(FRONT_PORT));
    let mut open = Vec::new();
    for port in [41000, 41001] {
        open.push((lab.balancer(&header(port))?, app.accept()?.0));
    }
    let mut third = lab.balancer(&header(41002))?;
    poll::until("a third to go where it has to wait", || {
        let status = lab.shown("status")?;
        Ok((status["kernel"]["to_daemon_full"] == 1).then_some(()))
    })?;
    app.saw_nobody()?;
    drop(open);
    let (mut stream, peer) = app.accept()?;
    assert_eq!(peer, CLIENT.v4(41002));
    third.write_all(b"in\n")?;
    ensure!(read_line(&mut stream)? == "in");
    Ok(())
}

/// Each worker has one that waits, and none of them counts.
#[test]
fn maxconn_lets_the_next_one_in_beside_direct_ones() -> Result<()> {
    const MOST: u16 = 4;
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let args = ["--maxconn", "4", "--workers", "4"];
    let _truepeer = lab.truepeer().args(args).start()?;
    let connect = |port| lab.balancer(&Version::V2.header(CLIENT.v4(port), FRONT.v4(FRONT_PORT)));
    let mut open = Vec::new();
    for port in 41000..41000 + MOST {
        open.push((connect(port)?, app.accept()?.0));
    }
    let waiting = (0..4 * MOST).map(|number| connect(42000 + number));
    let _waiting = waiting.collect::<Result<Vec<_>>>()?;
    app.saw_nobody()?;
    let mut served = Vec::new();
    for _ in 0..MOST {
        drop(open.pop());
        served.push(app.accept()?.0);
    }
    app.saw_nobody()
}

/// What the daemon has open itself counts as well.
#[test]
fn the_limit_of_open_files_resets_nobody() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let _truepeer = lab.truepeer().by_daemon().open_files(512).start()?;
    let most = lab.shown("status")?["limits"]["daemon"].take();
    let most = u16::try_from(most.as_u64().context("a limit")?)?;
    let connect = |port| lab.balancer(&Version::V2.header(CLIENT.v4(port), FRONT.v4(FRONT_PORT)));
    let mut open = Vec::new();
    for port in (41_000..).take(most.into()) {
        open.push(Talk::accept(connect(port)?, &app, CLIENT.v4(port))?);
    }
    let waiting = connect(40_999)?;
    open.iter_mut().try_for_each(Talk::round_trip)?;
    lab.shown("status")?;
    app.saw_nobody()?;
    drop(open.pop());
    Talk::accept(waiting, &app, CLIENT.v4(40_999))?.round_trip()
}
