//! What each contender is put through in every round.

use anyhow::Result;

use crate::app::App;
use crate::args::Args;
use crate::idle;
use crate::peers::Kind;
use crate::results::{Figures, less, more};
use crate::site::Site;
use crate::streams::{self, Direction};
use crate::window::Spent;
use crate::{connects, pings};

#[derive(Clone, Copy)]
pub enum Scenario {
    Streams(Direction, usize),
    Pings(usize),
    Connects,
}

impl Scenario {
    pub const ALL: [Self; 7] = [
        Self::Streams(Direction::Up, 1),
        Self::Streams(Direction::Down, 1),
        Self::Streams(Direction::Up, 8),
        Self::Streams(Direction::Down, 8),
        Self::Pings(1),
        Self::Pings(16),
        Self::Connects,
    ];

    pub fn name(self) -> String {
        match self {
            Self::Streams(Direction::Up, count) => format!("up-{count}"),
            Self::Streams(Direction::Down, count) => format!("down-{count}"),
            Self::Pings(count) => format!("ping-{count}"),
            Self::Connects => "connect".to_owned(),
        }
    }

    pub fn run(self, site: &Site, app: &App, args: &Args) -> Result<Figures> {
        let (dialer, usage, window) = (site.dialer(), site.usage(), args.window());
        let name = self.name();
        Ok(match self {
            Self::Streams(direction, count) => {
                let how = (&usage, window, args.copy);
                bulk(&name, &streams::run(&dialer, (direction, count), app, how)?)
            }
            Self::Pings(count) => {
                let (spent, times) = pings::run(&dialer, count, &usage, window)?;
                latency(&name, &spent, &times)
            }
            Self::Connects => connections(&name, &connects::run(&dialer, &usage, window)?),
        })
    }
}

fn bulk(name: &str, spent: &Spent) -> Figures {
    let gigabytes = spent.count as f64 / 1e9;
    let mut figures = vec![(more(name, "Gb/s"), gigabytes * 8.0 / spent.seconds)];
    if let Some(proxy) = spent.proxy {
        let metric = less(format!("{name} proxy CPU"), "s/GB");
        figures.push((metric, proxy / gigabytes));
    }
    let metric = less(format!("{name} whole machine"), "s/GB");
    figures.push((metric, spent.machine / gigabytes));
    figures
}

fn latency(name: &str, spent: &Spent, times: &[u64]) -> Figures {
    let rate = times.len() as f64 / spent.seconds / 1000.0;
    vec![
        (
            less(format!("{name} p50"), "µs"),
            pings::percentile(times, 0.50),
        ),
        (
            less(format!("{name} p99"), "µs"),
            pings::percentile(times, 0.99),
        ),
        (more(name, "k/s"), rate),
    ]
}

/// Also for those through a longer allowlist.
pub fn connections(name: &str, spent: &Spent) -> Figures {
    let count = spent.count as f64;
    let mut figures = vec![(more(name, "k/s"), count / spent.seconds / 1000.0)];
    if let Some(proxy) = spent.proxy {
        let metric = less(format!("{name} proxy CPU"), "s/10k");
        figures.push((metric, proxy / count * 10_000.0));
    }
    let metric = less(format!("{name} whole machine"), "s/10k");
    figures.push((metric, spent.machine / count * 10_000.0));
    figures
}

pub fn idle(kind: Kind, count: usize) -> Result<Figures> {
    let held = idle::run(kind, count)?;
    let mut figures = Figures::new();
    if kind != Kind::Direct {
        figures.push((less("idle process", "KiB"), held.process));
        figures.extend(held.base.map(|base| (less("idle base", "MiB"), base)));
    }
    figures.push((less("idle kernel", "KiB"), held.kernel));
    Ok(figures)
}
