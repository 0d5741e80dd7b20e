//! Connections that have spoken once and are silent now: what each one holds.
//!
//! Where a process may not have files for all of them, there are several parts, each with a site, an
//! app and load generators of its own.

use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::app::App;
use crate::files;
use crate::peers::Kind;
use crate::pings::MESSAGE;
use crate::site::Site;
use crate::usage::{Memory, Usage};

/// Allocators and the kernel's slabs need it to give back what they can.
const SETTLE: Duration = Duration::from_millis(1500);

/// KiB per connection.
pub struct PerConnection {
    pub process: f64,
    /// Includes the balancer's and the app's ends.
    pub kernel: f64,
    /// MiB of the process before the first one, if there is but one.
    pub base: Option<f64>,
}

/// How many processes of this kind it takes.
pub fn parts(kind: Kind, count: usize) -> usize {
    count.div_ceil(files::connections(kind.files_each()))
}

pub fn run(kind: Kind, count: usize) -> Result<PerConnection> {
    let parts = parts(kind, count);
    let held = thread::scope(|scope| {
        let (mut all, mut threads) = (Vec::new(), Vec::new());
        for part in 0..parts {
            let share = count / parts + usize::from(part < count % parts);
            let (go, told) = channel();
            let (tell, said) = channel();
            threads.push(scope.spawn(move || hold(kind, share, &told, &tell)));
            all.push(Part { go, said });
        }
        let held = measure(&all);
        // From here on they end.
        drop(all);
        for thread in threads {
            thread.join().expect("no panic in a part")?;
        }
        held
    });
    let (before, held) = held?;
    thread::sleep(SETTLE);
    let each = |pick: fn(&Memory) -> u64| {
        let grown = pick(&held).saturating_sub(pick(&before));
        grown as f64 / 1024.0 / count as f64
    };
    Ok(PerConnection {
        process: each(|memory| memory.process),
        kernel: each(|memory| memory.kernel),
        base: (parts == 1).then_some(before.process as f64 / 1024.0 / 1024.0),
    })
}

/// Does the next thing when told, and says when it is done.
struct Part {
    go: Sender<()>,
    said: Receiver<Usage>,
}

/// Before the first connection and with all of them.
fn measure(parts: &[Part]) -> Result<(Memory, Memory)> {
    let before = memory(parts)?;
    for part in parts {
        part.go.send(())?;
    }
    let held = memory(parts)?;
    Ok((before, held))
}

/// Once all parts are done with what they do.
fn memory(parts: &[Part]) -> Result<Memory> {
    let mut usages = Vec::new();
    for part in parts {
        usages.push(part.said.recv().context("a part has failed")?);
    }
    thread::sleep(SETTLE);
    let mut all = Usage::of(None).memory()?;
    for usage in usages {
        all.process += usage.memory()?.process;
    }
    Ok(all)
}

fn hold(kind: Kind, count: usize, told: &Receiver<()>, tell: &Sender<Usage>) -> Result<()> {
    files::split()?;
    let app = App::start(false)?;
    let site = Site::start(kind, &app, 1)?;
    tell.send(site.usage())?;
    if told.recv().is_err() {
        bail!("another part has failed");
    }
    let streams = site.dialer().dial_all(count, &MESSAGE);
    let mut streams = streams.with_context(|| format!("opening {count} connections"))?;
    greet(&mut streams).context("the first bytes of idle connections")?;
    tell.send(site.usage())?;
    // Until everything is measured.
    let _ = told.recv();
    Ok(())
}

fn greet(streams: &mut [TcpStream]) -> io::Result<()> {
    let mut answer = [0; MESSAGE.len()];
    streams
        .iter_mut()
        .try_for_each(|stream| stream.read_exact(&mut answer))
}
