//! `cargo xtask bench`: what truepeer costs beside its peers, on this machine.

use std::path::{Path, PathBuf, absolute};

use anyhow::{Context, Result};
use clap::Args;

use crate::privilege::{require, run_as_root};
use crate::proc::{cargo, root, step, succeed, target_dir};
use crate::{build, setup};

/// Contenders that take no other program than truepeer.
const OURS: [&str; 3] = ["direct", "truepeer", "daemon"];

#[derive(Args)]
pub struct Options {
    /// Shorter and fewer rounds: a first look, in minutes instead of half an hour
    #[arg(long)]
    quick: bool,
    /// Only scenarios with one of these in their name: up-1, down-8, ping, connect, connect-flood,
    /// changes, idle, steering, udp, udp-spp, udp-idle; "connect=" is that one alone
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
    /// Only these contenders: direct, truepeer, daemon (truepeer with all connections and datagrams in
    /// the daemon), go-mmproxy, haproxy, nginx; the last two don't speak UDP
    #[arg(long, value_name = "NAME", num_args = 1..)]
    contender: Vec<String>,
    /// Rounds in which each contender has its turn [default: 7, quick: 2]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Idle connections, or flows of UDP, held by as many processes as `ulimit -Hn` demands
    /// [default: 50000, quick: 2000]
    #[arg(long, value_name = "N")]
    idle: Option<usize>,
    /// Count each proxy's system calls per connection as well
    #[arg(long)]
    strace: bool,
    /// Let whoever receives a stream read its bytes, not only count and discard them
    #[arg(long)]
    copy: bool,
    /// Where to write all figures [default: target/bench.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the chart of proxy-userspace/docs/ and write the table of its speed.md anew
    #[arg(long)]
    svg: bool,
}

pub fn run(options: &Options) -> Result<()> {
    require("bench")?;
    setup::run()?;
    setup::bench()?;
    let peers = options.wants_peers().then(setup::peers).transpose()?;
    build::run()?;
    let json = match &options.json {
        Some(json) => absolute(json).context("--json")?,
        None => target_dir().join("bench.json"),
    };
    step(format_args!(
        "the bench; its figures go to {}",
        json.display()
    ));
    let mut bench = cargo();
    bench.args(["bench", "--locked", "--package", "proxy-userspace"]);
    bench.args(["--bench", "net"]);
    run_as_root(&mut bench);
    bench.arg("--").args(options.passed_on());
    bench.arg("--json").arg(json);
    if let Some(peers) = peers {
        bench.arg("--peers").arg(peers);
    }
    if options.svg {
        bench.arg("--svg").arg(document("bench.svg"));
        bench.arg("--markdown").arg(document("speed.md"));
    }
    succeed(&mut bench, "the bench failed")
}

fn document(name: &str) -> PathBuf {
    Path::join(root(), "proxy-userspace/docs").join(name)
}

impl Options {
    fn wants_peers(&self) -> bool {
        let is_peer = |name: &String| !OURS.contains(&name.as_str());
        self.contender.is_empty() || self.contender.iter().any(is_peer)
    }

    /// All but the paths, which cargo would take from another directory.
    fn passed_on(&self) -> Vec<String> {
        let switches = [
            ("--quick", self.quick),
            ("--strace", self.strace),
            ("--copy", self.copy),
        ];
        let switches = switches.into_iter().filter(|(_, on)| *on);
        let mut args: Vec<String> = switches.map(|(name, _)| name.to_owned()).collect();
        for (name, values) in [("--only", &self.only), ("--contender", &self.contender)] {
            args.extend(values.iter().map(|value| format!("{name}={value}")));
        }
        for (name, number) in [("--rounds", self.rounds), ("--idle", self.idle)] {
            args.extend(number.map(|number| format!("{name}={number}")));
        }
        args
    }
}
