//! Nothing with a steer address ever leaves by an uplink, however a connection or the daemon ends
//! while the app still sends.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::site::nft;
use super::{Bound, LOOPBACK_V4, LOOPBACK_V6, Talk, WILDCARD_V4, WILDCARD_V6};
use crate::lab::Lab;
use crate::lab::addr::{FRONT, FRONT_PORT};
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::leaks::Leaks;
use crate::lab::path::Path;
use crate::lab::poll;
use crate::lab::proc::Proc;
use crate::lab::stream::{expect_end, has_closed};

/// A connection on which the app sends as much as it can.
struct Flow {
    truepeer: Proc,
    balancer: Sink,
}

impl Flow {
    fn signal(&mut self, signal: Signal) -> Result<()> {
        self.truepeer.signal(signal)
    }
}

/// Reads all that comes until it is told to close.
struct Sink {
    close: Arc<AtomicBool>,
    reading: JoinHandle<()>,
}

impl Sink {
    /// Counts into `received`.
    fn start(mut stream: TcpStream, received: Arc<AtomicUsize>) -> Self {
        let close = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&close);
        let reading = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !closed.load(Ordering::Relaxed) {
                match stream.read(&mut buffer) {
                    Ok(1..) => received.fetch_add(1, Ordering::Relaxed),
                    Ok(0) | Err(_) => return,
                };
            }
        });
        Self { close, reading }
    }

    /// With unread data in its buffer, which makes it a reset.
    fn close(&self) {
        self.close.store(true, Ordering::Relaxed);
    }
}

macro_rules! leaks_nothing {
    ($($(#[$meta:meta])* $end:ident: $how:expr;)*) => { $(
        $(#[$meta])*
        mod $end {
            use super::*;
            #[test] fn wildcard_v4() -> Result<()> { leaks_nothing(WILDCARD_V4, $how) }
            #[test] fn loopback_v4() -> Result<()> { leaks_nothing(LOOPBACK_V4, $how) }
            #[test] fn wildcard_v6() -> Result<()> { leaks_nothing(WILDCARD_V6, $how) }
            #[test] fn loopback_v6() -> Result<()> { leaks_nothing(LOOPBACK_V6, $how) }
        }
    )* };
}

leaks_nothing! {
    when_the_balancer_closes: |flow| { flow.balancer.close(); Ok(()) };
    when_the_daemon_is_killed: |flow| flow.signal(Signal::KILL);
    when_the_daemon_stops_at_once: |flow| {
        flow.signal(Signal::TERM)?;
        flow.truepeer.wait_line("draining")?;
        flow.signal(Signal::TERM)
    };
    when_a_drain_runs_out: |flow| flow.signal(Signal::TERM);
}

mod when_the_host_looks_for_its_router {
    use super::*;
    #[test]
    fn loopback_v4() -> Result<()> {
        asks_by_its_own_address(LOOPBACK_V4)
    }
    #[test]
    fn loopback_v6() -> Result<()> {
        asks_by_its_own_address(LOOPBACK_V6)
    }
}

fn asks_by_its_own_address(bound: Bound) -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, bound.to)?;
    let _truepeer = lab.truepeer().targets_for(bound.to).start()?;
    let leaks = Leaks::watch(&lab.edge)?;
    let mut talk = Talk::open(&lab, &app, bound.client, Version::V2)?;
    lab.host.ip("neigh flush dev edge")?;
    talk.app.write_all(b"x")?;
    talk.balancer.read_exact(&mut [0])?;
    leaks.saw_none()
}

/// The app's sending has to end by itself, too: an app that hangs holds its resources.
fn leaks_nothing(bound: Bound, end: impl FnOnce(&mut Flow) -> Result<()>) -> Result<()> {
    const ENOUGH: usize = 64;
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, bound.to)?;
    let truepeer = lab.truepeer().targets_for(bound.to);
    // Direct connections outlive the daemon: what their ends leak is asked where the keeper's are.
    let truepeer = truepeer.args(["--drain-timeout", "200ms"]);
    let truepeer = truepeer.args(Path::Daemon.args()).start()?;
    let leaks = Leaks::watch(&lab.edge)?;
    let Talk { balancer, app } = Talk::open(&lab, &app, bound.client, Version::V2)?;
    let received = Arc::new(AtomicUsize::new(0));
    let sending = thread::spawn(move || send_for_ever(app));
    let balancer = Sink::start(balancer, Arc::clone(&received));
    let mut flow = Flow { truepeer, balancer };
    poll::until("the app's data", || {
        Ok((received.load(Ordering::Relaxed) > ENOUGH).then_some(()))
    })?;
    end(&mut flow)?;
    let error = sending.join().expect("no panic");
    ensure!(
        error.kind() != std::io::ErrorKind::WouldBlock,
        "the app's connection is stuck"
    );
    flow.balancer.close();
    flow.balancer.reading.join().expect("no panic");
    drop(flow.truepeer);
    lab.no_device_left()?;
    leaks.saw_none()
}

fn send_for_ever(mut app: TcpStream) -> std::io::Error {
    let block = vec![7; 1 << 16];
    loop {
        if let Err(error) = app.write_all(&block) {
            return error;
        }
    }
}

mod late_words_of_an_app {
    use super::*;

    macro_rules! late {
        ($($name:ident $app:ident;)*) => { $(
            #[test]
            fn $name() -> Result<()> {
                after_a_half_close($app)
            }
        )* };
    }

    late! {
        wildcard_v4 WILDCARD_V4;
        loopback_v4 LOOPBACK_V4;
        wildcard_v6 WILDCARD_V6;
        loopback_v6 LOOPBACK_V6;
    }
}

/// The client has finished, the daemon is killed, and then the app writes and closes.
fn after_a_half_close(bound: Bound) -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, bound.to)?;
    let truepeer = lab.truepeer().targets_for(bound.to);
    let mut truepeer = truepeer.args(Path::Daemon.args()).start()?;
    let leaks = Leaks::watch(&lab.edge)?;
    let mut talk = Talk::open(&lab, &app, bound.client, Version::V2)?;
    talk.round_trip()?;
    talk.balancer.shutdown(Shutdown::Write)?;
    expect_end(&mut talk.app)?;
    truepeer.signal(Signal::KILL)?;
    truepeer.wait_exit()?;
    ensure!(has_closed(&mut talk.balancer), "it outlived the daemon");
    // Whether that is an error is the kernel's affair.
    let _ = talk.app.write_all(b"late");
    drop(talk);
    lab.no_device_left()?;
    leaks.saw_none()
}

/// The kernel itself answers: RST without an app, which is the balancer's answer as well, and ICMP from
/// a firewall.
mod answers_of_the_kernel {
    use super::*;

    #[test]
    fn no_app_v4() -> Result<()> {
        nobody_is_there(LOOPBACK_V4)
    }

    #[test]
    fn no_app_v6() -> Result<()> {
        nobody_is_there(LOOPBACK_V6)
    }

    #[test]
    fn icmp_v4() -> Result<()> {
        nobody_answers(WILDCARD_V4)
    }

    #[test]
    fn icmp_v6() -> Result<()> {
        nobody_answers(WILDCARD_V6)
    }
}

fn reject(lab: &Lab) -> Result<()> {
    let rules = "add table inet no
        add chain inet no input { type filter hook input priority 0 ; }
        add rule inet no input tcp dport 8080 reject with icmpx type admin-prohibited";
    nft(&lab.host, rules)
}

fn nobody_is_there(bound: Bound) -> Result<()> {
    let lab = Lab::new()?;
    let _truepeer = lab.truepeer().targets_for(bound.to).start()?;
    let leaks = Leaks::watch(&lab.edge)?;
    let header = Version::V2.header(bound.client, FRONT.like(bound.client, FRONT_PORT));
    ensure!(lab.balancer(&header).is_err(), "somebody is there");
    leaks.saw_none()
}

/// The balancer's connection ends, and soon: truepeer hears the answer.
fn nobody_answers(bound: Bound) -> Result<()> {
    let lab = Lab::new()?;
    let _app = App::listen(&lab.host, bound.to)?;
    reject(&lab)?;
    let truepeer = lab.truepeer().targets_for(bound.to);
    let truepeer = truepeer.args(["--connect-timeout", "600s"]);
    let _truepeer = truepeer.args(Path::Daemon.args()).start()?;
    let leaks = Leaks::watch(&lab.edge)?;
    let header = Version::V2.header(bound.client, FRONT.like(bound.client, FRONT_PORT));
    let mut balancer = lab.balancer(&header)?;
    balancer.set_read_timeout(Some(Duration::from_secs(10)))?;
    ensure!(
        has_closed(&mut balancer),
        "truepeer didn't hear that nobody is there"
    );
    leaks.saw_none()
}

/// The capture itself works: without a daemon in between, the addresses of steering, of a client and of a container
/// would be seen.
#[test]
fn the_capture_sees_a_leak() -> Result<()> {
    let lab = Lab::new()?;
    for address in ["169.254.80.80", "203.0.113.9", "10.80.0.2"] {
        lab.host.ip(&format!("address add {address}/32 dev lo"))?;
        let leaks = Leaks::watch(&lab.edge)?;
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "1", "--interface", address]);
        curl.arg("http://203.0.113.1:9/");
        lab.host.output(curl).context("curl")?;
        let leak = leaks.saw_none();
        let seen = format!("{address} >");
        ensure!(
            leak.is_err_and(|error| error.to_string().contains(&seen)),
            "{address} wasn't seen"
        );
    }
    Ok(())
}
