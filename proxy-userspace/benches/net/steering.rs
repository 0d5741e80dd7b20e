//! What steering costs by itself: each program's runs, and a steered hop beside a bare one.
//!
//! The hop is measured without the relay: the load generator enters the daemon's own namespace and
//! connects to the app from there, from a client's address, just as the relay does. The bare hop
//! is the same generator on the host, over `lo`.

use anyhow::{Context, Result};

use crate::app::App;
use crate::args::Args;
use crate::connects::{self, Close};
use crate::dial::Dialer;
use crate::lab::addr::APP_PORT;
use crate::place::Place;
use crate::programs;
use crate::report::Notes;
use crate::results::median;
use crate::site::Site;
use crate::streams::{self, Direction};

/// truepeer's first steer address, its default.
const STEER: [u8; 4] = [169, 254, 80, 80];

/// What the allowed loss is read from: rates of the same load over both hops.
pub fn hops(site: &Site, app: &App, args: &Args) -> Result<Notes> {
    let daemon = site.running.pid().context("the hop needs truepeer")?;
    let inside = Place::inside(daemon)?;
    let steered = Dialer::new(inside, (STEER, APP_PORT).into()).spoof();
    let bare = site.on_loopback()?;
    let mut figures: [[Vec<f64>; 2]; 3] = Default::default();
    for _ in 0..args.rounds() {
        for (hop, dialer) in [&bare, &steered].into_iter().enumerate() {
            for (load, figures) in figures.iter_mut().enumerate() {
                figures[hop].push(one(load, dialer, site, app, args)?);
            }
        }
    }
    let mut notes = Notes::new("steered hop beside a bare loopback hop");
    for (name, [bare, steered]) in ["up-1 Gb/s", "down-1 Gb/s", "connect k/s"]
        .iter()
        .zip(&figures)
    {
        let (bare, steered) = (median(bare), median(steered));
        notes.add(format!("{name}, bare"), bare);
        notes.add(format!("{name}, steered"), steered);
        notes.add(format!("{name}, ratio"), steered / bare);
    }
    Ok(notes)
}

fn one(load: usize, dialer: &Dialer, site: &Site, app: &App, args: &Args) -> Result<f64> {
    let (usage, window) = (site.usage(), args.window());
    let how = (&usage, window, args.copy);
    Ok(match load {
        0 => gigabits(&streams::run(dialer, (Direction::Up, 1), app, how)?),
        1 => gigabits(&streams::run(dialer, (Direction::Down, 1), app, how)?),
        _ => {
            let spent = connects::run(dialer, Close::Reset, &usage, window)?;
            spent.count as f64 / spent.seconds / 1000.0
        }
    })
}

fn gigabits(spent: &crate::window::Spent) -> f64 {
    spent.count as f64 * 8.0 / 1e9 / spent.seconds
}

/// Nanoseconds per run of each program, for truepeer's own traffic and for everybody else's.
pub fn runs(site: &Site, app: &App, args: &Args) -> Result<Notes> {
    let daemon = site.running.proc().context("programs need truepeer")?;
    let mut notes = Notes::new("eBPF programs, nanoseconds per run (and runs)");
    let usage = site.usage();
    let how = (&usage, args.window(), args.copy);
    let own = site.dialer();
    // Foreign traffic meets reply and dispatch on its way past the proxy, and deliver on lo.
    let past = site.past_proxy();
    let local = site.on_loopback()?;
    for (whose, dialer) in [("own", &own), ("foreign", &past), ("foreign on lo", &local)] {
        let connects = programs::during(daemon, || {
            connects::run(dialer, Close::Reset, &usage, args.window()).map(drop)
        })?;
        let bulk = programs::during(daemon, || {
            let up = streams::run(dialer, (Direction::Up, 1), app, how);
            up.and_then(|_| streams::run(dialer, (Direction::Down, 1), app, how))
                .map(drop)
        })?;
        for (load, runs) in [("connections", connects), ("bulk", bulk)] {
            for (name, (count, time)) in runs {
                if count > 0 {
                    let key = format!("{name}, {whose} {load} ({count} runs)");
                    notes.add(key, time as f64 / count as f64);
                }
            }
        }
    }
    Ok(notes)
}
