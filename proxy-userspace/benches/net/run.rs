//! The run: sites, rounds, report.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::app::App;
use crate::args::Args;
use crate::connects::{self, Close};
use crate::kind::Kind;
use crate::lab::root::Root;
use crate::lineup::Lineup;
use crate::peers::Recipe;
use crate::protocol::{Framing, Protocol};
use crate::report::{self, Notes};
use crate::results::{Figures, Results};
use crate::scenario::Scenario;
use crate::site::{CONGESTION_CONTROL, Site};
use crate::{bars, devices, facts, figures, idle, lab, lists, markdown, steering, syscalls, table};

/// The longer allowlist.
const PREFIXES: usize = 100_000;

pub fn run(args: &Args) -> Result<()> {
    let start = Instant::now();
    lab::raise_nofile()?;
    let recipe = Recipe {
        root: args.peers.as_deref().map(Root::new),
        protocol: Protocol::Tcp,
        prefixes: 1,
    };
    let lineup = Lineup::new(args, &recipe)?;
    let app = App::start(args.copy)?;
    let mut results = Results::default();
    // First, while the kernel's slabs have no room that earlier connections left.
    idle(&lineup, &app, &recipe, args, &mut results)?;
    let sites = match wants_connections(args) {
        true => sites(&lineup.kinds, &app, &recipe)?,
        false => Vec::new(),
    };
    rounds(&sites, Protocol::Tcp, (&app, args), &mut results)?;
    allowlists(&lineup.kinds, &app, &recipe, args, &mut results)?;
    changes(&sites, &app, args, &mut results)?;
    alone(args, &mut results)?;
    let notes = notes(&sites, &app, args)?;
    drop(sites);
    datagrams(&lineup, &app, &recipe, args, &mut results)?;
    table::print(&results, &lineup);
    notes.iter().for_each(Notes::print);
    explain(args);
    println!("{:.0} s", start.elapsed().as_secs_f64());
    if let Some(path) = &args.json {
        report::write_json(path, (&results, &notes), &lineup, args)?;
    }
    if let Some(path) = &args.markdown {
        markdown::write(path, &results, &lineup, args)?;
    }
    match &args.svg {
        Some(path) => bars::draw(path, &results, &lineup),
        None => Ok(()),
    }
}

/// What the table can't say by itself.
fn explain(args: &Args) {
    println!(
        "\nMedians of {} rounds, the smallest and the largest below; everybody's routes say congctl \
         {CONGESTION_CONTROL}.\n\
         CPU of a proxy is user and system time of its processes. Softirq work that it causes is \
         charged to whoever runs: \"whole machine\" has it, with load generators and app.\n\
         Idle are {} connections or flows, held by as many processes as `ulimit -Hn` demands. Kernel memory \
         is the machine's slab and socket buffers: direct's share of it is the balancer's and the app's \
         own sockets. Of maps that are there as a whole from the start, a flow has its share of one that is full.",
        args.rounds(),
        args.idle(),
    );
}

fn sites(kinds: &[Kind], app: &App, recipe: &Recipe) -> Result<Vec<Site>> {
    kinds
        .iter()
        .map(|&kind| Site::start(kind, app, recipe))
        .collect()
}

/// Whether anything is to be measured on sites for connections.
fn wants_connections(args: &Args) -> bool {
    let others = ["changes", "steering"].map(str::to_owned);
    let all = Scenario::of(Protocol::Tcp).into_iter().map(Scenario::name);
    args.strace || all.chain(others).any(|name| args.wants(&name))
}

/// Of those who speak it, with each framing.
fn datagrams(
    lineup: &Lineup,
    app: &App,
    recipe: &Recipe,
    args: &Args,
    results: &mut Results,
) -> Result<()> {
    for protocol in Framing::LOADED.map(Protocol::Udp) {
        let wanted = Scenario::of(protocol).into_iter().map(Scenario::name);
        if wanted.into_iter().any(|name| args.wants(&name)) {
            let recipe = recipe.clone().speaking(protocol);
            let sites = sites(&lineup.of(protocol), app, &recipe)?;
            rounds(&sites, protocol, (app, args), results)?;
        }
    }
    Ok(())
}

/// Scenario by scenario, so that the rounds of one are close together.
fn rounds(
    sites: &[Site],
    protocol: Protocol,
    (app, args): (&App, &Args),
    results: &mut Results,
) -> Result<()> {
    for scenario in Scenario::of(protocol) {
        let name = scenario.name();
        if !args.wants(&name) {
            continue;
        }
        for round in 0..args.rounds() {
            eprintln!("{name}, round {} of {}", round + 1, args.rounds());
            for site in turns(sites, round) {
                let figures = scenario.run(site, app, args);
                let what = || format!("{name} over {}", site.kind.name());
                match figures.with_context(what) {
                    Ok(figures) => results.add(site.kind, figures),
                    Err(error) if site.kind.is_peer() => eprintln!("left out: {error:#}"),
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(())
}

/// Each round begins with another one, and every second one goes backwards, lest the same always comes behind
/// the same: what one leaves of the machine's caches and time is the next one's.
fn turns(sites: &[Site], round: usize) -> impl Iterator<Item = &Site> {
    let len = sites.len();
    (0..len).map(move |turn| match round % 2 {
        0 => &sites[(round + turn) % len],
        _ => &sites[(round + len - turn) % len],
    })
}

/// Short connections again, through an allowlist whose last entry is the balancer's.
fn allowlists(
    kinds: &[Kind],
    app: &App,
    recipe: &Recipe,
    args: &Args,
    results: &mut Results,
) -> Result<()> {
    let name = format!("connect-allow-{PREFIXES}");
    if !args.wants(&name) {
        return Ok(());
    }
    let proxies = kinds.iter().copied().filter(|kind| *kind != Kind::Direct);
    let long = Recipe {
        prefixes: PREFIXES,
        ..recipe.clone()
    };
    let sites = sites(&proxies.collect::<Vec<_>>(), app, &long)?;
    for round in 0..args.rounds() {
        eprintln!("{name}, round {} of {}", round + 1, args.rounds());
        for site in turns(&sites, round) {
            let (dialer, usage) = (site.dialer(), site.usage());
            let spent = connects::run(&dialer, Close::Reset, &usage, args.window());
            let spent = spent.with_context(|| format!("{name} over {}", site.kind.name()))?;
            results.add(site.kind, figures::connections(&name, &spent));
        }
    }
    Ok(())
}

/// On truepeer's host alone, as nobody else has two paths.
fn changes(sites: &[Site], app: &App, args: &Args, results: &mut Results) -> Result<()> {
    let mut truepeer = sites.iter().filter(|site| site.kind == Kind::Truepeer);
    let Some(site) = truepeer.next().filter(|_| args.wants("changes")) else {
        return Ok(());
    };
    for round in 0..args.rounds() {
        eprintln!("changes, round {} of {}", round + 1, args.rounds());
        results.add(site.kind, facts::run(site, app).context("changes")?);
    }
    Ok(())
}

/// Of truepeer alone: nobody else has anything on devices, or a list.
fn alone(args: &Args, results: &mut Results) -> Result<()> {
    type Run = fn() -> Result<Figures>;
    let all = [("devices", devices::run as Run), ("lists", lists::run)];
    for (name, run) in all.into_iter().filter(|(name, _)| args.wants(name)) {
        let rounds = args.rounds();
        for round in 0..rounds {
            eprintln!("{name}, round {} of {rounds}", round + 1);
            results.add(Kind::Truepeer, run().context(name)?);
        }
    }
    Ok(())
}

fn idle(
    lineup: &Lineup,
    app: &App,
    recipe: &Recipe,
    args: &Args,
    results: &mut Results,
) -> Result<()> {
    let all = Framing::ALL.map(Protocol::Udp);
    for protocol in [Protocol::Tcp].into_iter().chain(all) {
        let name = protocol.row("idle");
        if !args.wants(&name) {
            continue;
        }
        let recipe = recipe.clone().speaking(protocol);
        for kind in lineup.of(protocol) {
            eprintln!("{name}, {} by {}", args.idle(), kind.name());
            let held = idle::run(kind, args.idle(), app, &recipe);
            let held = held.with_context(|| format!("{name} over {}", kind.name()))?;
            results.add(kind, figures::idle(protocol, kind, &held));
        }
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
