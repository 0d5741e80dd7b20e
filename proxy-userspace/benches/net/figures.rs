//! What is reported of what was spent.

use std::time::Duration;

use crate::idle::PerConnection;
use crate::kind::Kind;
use crate::pings;
use crate::protocol::Protocol;
use crate::results::{Figures, Metric, less, more};
use crate::window::Spent;

const KIB: f64 = 1024.0;

/// What is done once.
pub fn took(name: String, took: Duration) -> (Metric, f64) {
    (less(name, "ms"), took.as_secs_f64() * 1000.0)
}

pub fn bulk(name: &str, spent: &Spent) -> Figures {
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

pub fn latency(name: &str, spent: &Spent, times: &[u64]) -> Figures {
    let rate = times.len() as f64 / spent.seconds / 1000.0;
    let time = |share| pings::percentile(times, share);
    vec![
        (less(format!("{name} p50"), "µs"), time(0.50)),
        (less(format!("{name} p99"), "µs"), time(0.99)),
        (more(name, "k/s"), rate),
    ]
}

/// Of datagrams. What they cost is work of the kernel's, so that only the machine has it all.
pub fn round_trips(name: &str, spent: &Spent, times: &[u64]) -> Figures {
    let mut figures = latency(name, spent, times);
    let metric = less(format!("{name} whole machine"), "µs");
    figures.push((metric, spent.machine * 1e6 / times.len() as f64));
    figures
}

pub fn datagrams(name: &str, spent: &Spent) -> Figures {
    let count = spent.count as f64;
    let metric = less(format!("{name} whole machine"), "µs");
    vec![
        (more(name, "k/s"), count / spent.seconds / 1000.0),
        (metric, spent.machine * 1e6 / count),
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

pub fn idle(protocol: Protocol, kind: Kind, held: &PerConnection) -> Figures {
    let mut figures = Figures::new();
    let less = |what, unit| less(format!("{} {what}", protocol.row("idle")), unit);
    if kind != Kind::Direct {
        figures.push((less("process", "KiB"), held.process / KIB));
        figures.push((less("processes", "all"), held.parts as f64));
        figures.push((less("descriptors", "each"), held.descriptors));
        let base = held.base.map(|base| base / KIB / KIB);
        figures.extend(base.map(|base| (less("base", "MiB"), base)));
    }
    if kind.is_truepeer() {
        figures.push((less("maps", "bytes"), held.maps));
    }
    figures.push((less("kernel", "KiB"), held.kernel / KIB));
    figures
}
