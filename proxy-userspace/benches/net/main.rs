//! What truepeer costs beside its peers and beside no proxy at all: `cargo xtask bench`.
//!
//! Each contender has a balancer's and a host's network namespace of its own, set up alike; an
//! app and load generators, threads of this process, are the same for all. Every round gives each
//! contender its turn, and what is reported is the median of the rounds. A bench is no test: it
//! fails only when it can't measure.

mod app;
mod args;
mod bars;
mod connects;
mod crowd;
mod devices;
mod dial;
mod facts;
mod figures;
mod files;
mod flood;
mod goals;
mod idle;
mod kind;
#[expect(dead_code, reason = "the tests' lab, of which a bench needs a part")]
#[path = "../../tests/it/lab/mod.rs"]
mod lab;
mod lineup;
mod lists;
mod markdown;
mod open;
mod peers;
mod pings;
mod place;
mod programs;
mod protocol;
mod report;
mod results;
mod run;
mod scenario;
mod setups;
mod site;
mod steering;
mod streams;
mod syscalls;
mod table;
mod udp;
mod usage;
mod window;
mod worker;

use anyhow::Result;
use clap::Parser;

fn main() -> Result<()> {
    run::run(&args::Args::parse())
}
