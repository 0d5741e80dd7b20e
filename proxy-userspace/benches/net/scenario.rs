//! What each contender is put through in every round.

use std::thread;

use anyhow::Result;

use crate::app::App;
use crate::args::Args;
use crate::connects::{self, Close};
use crate::crowd::Crowd;
use crate::figures;
use crate::flood;
use crate::pings;
use crate::protocol::Protocol;
use crate::results::{Figures, more};
use crate::site::Site;
use crate::streams::{self, Direction};
use crate::udp;
use crate::window::{Phase, Window};

#[derive(Clone, Copy)]
pub enum Scenario {
    Streams(Direction, usize),
    Pings(usize),
    Connects(Connects),
    Datagrams(udp::Load),
}

/// Short connections: closed by a reset, with header and request in one segment, but for what the
/// name says.
#[derive(Clone, Copy)]
pub enum Connects {
    Plain,
    Fin,
    HeaderAlone,
    /// Beside connections that are open and idle.
    BesideOpen,
    BesideFlood,
}

impl Scenario {
    /// The flood comes last: what it has left in a listener's queue stays for a minute.
    const TCP: [Self; 11] = [
        Self::Streams(Direction::Up, 1),
        Self::Streams(Direction::Down, 1),
        Self::Streams(Direction::Up, 8),
        Self::Streams(Direction::Down, 8),
        Self::Pings(1),
        Self::Pings(16),
        Self::Connects(Connects::Plain),
        Self::Connects(Connects::Fin),
        Self::Connects(Connects::HeaderAlone),
        Self::Connects(Connects::BesideOpen),
        Self::Connects(Connects::BesideFlood),
    ];

    pub fn of(protocol: Protocol) -> Vec<Self> {
        match protocol {
            Protocol::Tcp => Self::TCP.to_vec(),
            Protocol::Udp(framing) => udp::Load::of(framing).map(Self::Datagrams).collect(),
        }
    }

    pub fn name(self) -> String {
        match self {
            Self::Datagrams(load) => load.name(),
            Self::Streams(Direction::Up, count) => format!("up-{count}"),
            Self::Streams(Direction::Down, count) => format!("down-{count}"),
            Self::Pings(count) => format!("ping-{count}"),
            Self::Connects(how) => how.name().to_owned(),
        }
    }

    pub fn run(self, site: &Site, app: &App, args: &Args) -> Result<Figures> {
        let (dialer, usage, window) = (site.dialer(), site.usage(), args.window());
        let name = self.name();
        Ok(match self {
            Self::Streams(direction, count) => {
                let how = (&usage, window, args.copy);
                let spent = streams::run(&dialer, (direction, count), app, how)?;
                figures::bulk(&name, &spent)
            }
            Self::Pings(count) => {
                let (spent, times) = pings::run(&dialer, count, &usage, window)?;
                figures::latency(&name, &spent, &times)
            }
            Self::Connects(how) => how.run(site, app, args)?,
            Self::Datagrams(load) => load.run(site, app, window)?,
        })
    }
}

impl Connects {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "connect",
            Self::Fin => "connect-fin",
            Self::HeaderAlone => "connect-header-alone",
            Self::BesideOpen => "connect-open",
            Self::BesideFlood => "connect-flood",
        }
    }

    fn run(self, site: &Site, app: &App, args: &Args) -> Result<Figures> {
        let (dialer, usage, window) = (site.dialer(), site.usage(), args.window());
        let name = self.name();
        Ok(match self {
            Self::Plain => {
                let spent = connects::run(&dialer, Close::Reset, &usage, window)?;
                figures::connections(name, &spent)
            }
            Self::Fin => {
                let spent = connects::run(&dialer, Close::Fin, &usage, window)?;
                figures::connections(name, &spent)
            }
            Self::HeaderAlone => {
                let dialer = dialer.header_alone();
                let spent = connects::run(&dialer, Close::Reset, &usage, window)?;
                figures::connections(name, &spent)
            }
            Self::BesideOpen => beside_open(name, site, app, args)?,
            Self::BesideFlood => beside_flood(name, site, window)?,
        })
    }
}

/// As many as the contender can hold by itself, with room for the load.
fn beside_open(name: &str, site: &Site, app: &App, args: &Args) -> Result<Figures> {
    let count = args.idle().min(site.capacity()? / 20 * 19);
    let crowd = Crowd::open(site, app, count)?;
    let spent = connects::run(&site.dialer(), Close::Reset, &site.usage(), args.window())?;
    drop(crowd);
    let mut figures = figures::connections(name, &spent);
    figures.push((
        more(format!("{name}, open ones"), "k"),
        count as f64 / 1000.0,
    ));
    Ok(figures)
}

fn beside_flood(name: &str, site: &Site, window: Window) -> Result<Figures> {
    let (dialer, phase) = (site.dialer(), Phase::default());
    let (spent, rate) = thread::scope(|scope| {
        let flood = scope.spawn(|| flood::run(&dialer, &phase));
        let spent = connects::run(&dialer, Close::Reset, &site.usage(), window);
        phase.end();
        (spent, flood.join().expect("no panic in the flood"))
    });
    let mut figures = figures::connections(name, &spent?);
    figures.push((
        more(format!("{name}, SYNs of the flood"), "k/s"),
        rate? / 1000.0,
    ));
    Ok(figures)
}
