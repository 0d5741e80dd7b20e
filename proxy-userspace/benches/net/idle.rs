//! Connections, or flows of UDP, that have spoken once and are silent now: what each one holds.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::app::App;
use crate::crowd::Crowd;
use crate::kind::Kind;
use crate::peers::Recipe;
use crate::protocol::Protocol;
use crate::site::Site;
use crate::udp;
use crate::usage::{Memory, Usage};

/// Allocators and the kernel's slabs need it to give back what they can.
const SETTLE: Duration = Duration::from_millis(1500);

/// What a connection takes.
pub struct PerConnection {
    /// Bytes of the process.
    pub process: f64,
    /// Bytes of the kernel, the balancer's and the app's ends included.
    pub kernel: f64,
    /// Bytes of eBPF maps, with what a flow of UDP has reserved for it there.
    pub maps: f64,
    pub descriptors: f64,
    /// How many processes it took to hold them all.
    pub parts: usize,
    /// Bytes of the process before the first one, if there is but one.
    pub base: Option<f64>,
}

pub fn run(kind: Kind, count: usize, app: &App, recipe: &Recipe) -> Result<PerConnection> {
    let mut sites = vec![Site::start(kind, app, recipe)?];
    let parts = count.div_ceil(sites[0].capacity()?);
    while sites.len() < parts {
        sites.push(Site::start(kind, app, recipe)?);
    }
    let before = memory(&sites)?;
    let mut crowds = Vec::new();
    for (part, site) in sites.iter().enumerate() {
        let share = count / parts + usize::from(part < count % parts);
        match recipe.protocol {
            Protocol::Tcp => crowds.push(Crowd::open(site, app, share)?),
            Protocol::Udp(_) => udp::greet(site, share)?,
        }
    }
    let held = memory(&sites)?;
    let each = |pick: fn(&Memory) -> u64| {
        let grown = pick(&held).saturating_sub(pick(&before));
        grown as f64 / count as f64
    };
    let reserved = match recipe.protocol {
        Protocol::Tcp => 0.0,
        Protocol::Udp(_) => sites[0].usage().reserved()?,
    };
    Ok(PerConnection {
        process: each(|memory| memory.process),
        kernel: each(|memory| memory.kernel),
        maps: each(|memory| memory.maps) + reserved,
        descriptors: each(|memory| memory.descriptors),
        parts,
        base: (parts == 1).then_some(before.process as f64),
    })
}

fn memory(sites: &[Site]) -> Result<Memory> {
    thread::sleep(SETTLE);
    let mut all = Usage::of(None).memory()?;
    for site in sites {
        let one = site.usage().memory()?;
        all.process += one.process;
        all.maps += one.maps;
        all.descriptors += one.descriptors;
    }
    Ok(all)
}
