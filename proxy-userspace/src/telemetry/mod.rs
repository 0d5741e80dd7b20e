//! What the operator gets to see: the log and the counts.

mod burst;
mod counts;
mod report;

use std::io::IsTerminal as _;

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

pub use counts::Counts;
pub use report::Telemetry;

/// Logs to stderr, where systemd and containers pick it up. The eBPF programs' lines come along.
pub fn init(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    // Libraries narrate each netlink message and each relocation.
    let ours = Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("truepeer", level);
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry().with(ours).with(lines).init();
}
