//! The run: sites, rounds, report.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::app::App;
use crate::args::Args;
use crate::bars;
use crate::connects;
use crate::idle;
use crate::lab;
use crate::peers::Kind;
use crate::report::{self, Notes};
use crate::results::Results;
use crate::scenario::{self, Scenario};
use crate::site::{CONGESTION_CONTROL, Site};
use crate::{steering, syscalls};

/// The longer allowlist.
const PREFIXES: usize = 100_000;

pub fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    lab::raise_nofile()?;
    let contenders = args.contenders();
    let mut results = Results::default();
    // First, while the kernel's slabs have no room that earlier connections left.
    idle(&contenders, args, &mut results)?;
    let app = App::start(args.copy)?;
    let sites = sites(&contenders, &app, 1)?;
    rounds(&sites, &app, args, &mut results)?;
    allowlists(&contenders, &app, args, &mut results)?;
    let notes = notes(&sites, &app, args)?;
    report::print(&results, &contenders);
    notes.iter().for_each(Notes::print);
    println!(
        "\nCPU of a proxy is user and system time of its processes. Softirq work that it causes is \
         charged to whoever runs: \"whole machine\" has it, with load generators and app.\n\
         Idle kernel memory is the machine's slab and socket buffers: direct's share of it is the \
         balancer's and the app's own sockets. {} connections were held, by {} truepeer and {} go-mmproxy: \
         as many as `ulimit -Hn` demands.\n\
         {} rounds, {:.0} s; everybody's routes say congctl {CONGESTION_CONTROL}",
        args.idle(),
        idle::parts(Kind::Truepeer, args.idle()),
        idle::parts(Kind::GoMmproxy, args.idle()),
        args.rounds(),
        start.elapsed().as_secs_f64()
    );
    if let Some(path) = &args.json {
        report::write_json(path, &results, &notes, args)?;
    }
    match &args.svg {
        Some(path) => bars::draw(path, &results, &contenders),
        None => Ok(()),
    }
}

fn sites(kinds: &[Kind], app: &App, prefixes: usize) -> Result<Vec<Site>> {
    kinds
        .iter()
        .map(|&kind| Site::start(kind, app, prefixes))
        .collect()
}

/// Scenario by scenario, so that the rounds of one are close together.
fn rounds(sites: &[Site], app: &App, args: &Args, results: &mut Results) -> Result<()> {
    for scenario in Scenario::ALL {
        let name = scenario.name();
        if !args.wants(&name) {
            continue;
        }
        for round in 0..args.rounds() {
            eprintln!("{name}, round {} of {}", round + 1, args.rounds());
            for site in turns(sites, round) {
                let figures = scenario.run(site, app, args);
                let what = || format!("{name} over {}", site.kind.name());
                results.add(site.kind, figures.with_context(what)?);
            }
        }
    }
    Ok(())
}

/// Each round begins with another one, lest the same always comes behind the same.
fn turns(sites: &[Site], round: usize) -> impl Iterator<Item = &Site> {
    sites.iter().cycle().skip(round).take(sites.len())
}

/// Short connections again, through an allowlist whose last entry is the balancer's.
fn allowlists(kinds: &[Kind], app: &App, args: &Args, results: &mut Results) -> Result<()> {
    let name = format!("connect-allow-{PREFIXES}");
    if !args.wants(&name) {
        return Ok(());
    }
    let kinds: Vec<_> = kinds
        .iter()
        .copied()
        .filter(|kind| *kind != Kind::Direct)
        .collect();
    let sites = sites(&kinds, app, PREFIXES)?;
    for round in 0..args.rounds() {
        eprintln!("{name}, round {} of {}", round + 1, args.rounds());
        for site in turns(&sites, round) {
            let spent = connects::run(&site.dialer(), &site.usage(), args.window());
            let spent = spent.with_context(|| format!("{name} over {}", site.kind.name()))?;
            results.add(site.kind, scenario::connections(&name, &spent));
        }
    }
    Ok(())
}

fn idle(kinds: &[Kind], args: &Args, results: &mut Results) -> Result<()> {
    for &kind in kinds.iter().filter(|_| args.wants("idle")) {
        eprintln!("{} idle connections, {}", args.idle(), kind.name());
        let figures = scenario::idle(kind, args.idle());
        let what = || format!("idle connections over {}", kind.name());
        results.add(kind, figures.with_context(what)?);
    }
    Ok(())
}

fn notes(sites: &[Site], app: &App, args: &Args) -> Result<Vec<Notes>> {
    let mut notes = Vec::new();
    let truepeer = sites.iter().find(|site| site.kind == Kind::Truepeer);
    if let Some(site) = truepeer.filter(|_| args.wants("steering")) {
        eprintln!("steering");
        notes.push(steering::hops(site, app, args)?);
        notes.push(steering::runs(site, app, args)?);
    }
    if args.strace {
        for site in sites.iter().filter(|site| site.running.pid().is_some()) {
            eprintln!("system calls, {}", site.kind.name());
            notes.push(syscalls::count(site)?);
        }
    }
    Ok(notes)
}
