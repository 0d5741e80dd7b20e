//! Connections that have spoken once, are silent now, and stay open beside what is measured.
//!
//! The limit of open files is one table's, so they are held by as many threads with a table of their
//! own as that takes: each has the balancer's ends of its share, and an app that gets its share of
//! what all of them open. The site's app gets none.

use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use socket2::SockRef;

use crate::app::App;
use crate::dial::Dialer;
use crate::files;
use crate::lab::netns::Netns;
use crate::pings::{self, MESSAGE};
use crate::site::{self, Site};

/// Of the ports that are connected from. The same for each holder: where somebody has bound a port,
/// at whatever address, the kernel chooses it for nobody.
const FIRST_PORT: usize = 1024;

/// They end when it is dropped.
pub struct Crowd {
    holders: Vec<Holder>,
}

/// Does the next thing when told, and says when it is done.
struct Holder {
    go: Sender<()>,
    said: Receiver<()>,
    thread: JoinHandle<Result<()>>,
}

impl Crowd {
    pub fn open(site: &Site, app: &App, count: usize) -> Result<Self> {
        let holders = count.div_ceil(files::connections(files::ENDS));
        let share = |number| count / holders + usize::from(number < count % holders);
        let holders = (0..holders).map(|number| Holder::start(site, number, share(number)));
        let mut crowd = Self {
            holders: holders.collect::<Result<_>>()?,
        };
        // Somebody listens all the time.
        crowd.said().context("listening")?;
        site.ports.iter().for_each(|port| app.pause(port));
        crowd.go();
        let connected = crowd.said();
        site.ports.iter().try_for_each(|port| app.resume(port))?;
        connected?;
        crowd.go();
        crowd.said()?;
        Ok(crowd)
    }

    fn go(&self) {
        for holder in &self.holders {
            // One that has failed meanwhile is met when it has to say something.
            let _ = holder.go.send(());
        }
    }

    /// Waits until all are done with what they do.
    fn said(&mut self) -> Result<()> {
        let mute = |holder: &Holder| holder.said.recv().is_err();
        match self.holders.iter().position(mute) {
            Some(at) => {
                joined(self.holders.swap_remove(at).thread)?;
                bail!("a holder of open connections ended early")
            }
            None => Ok(()),
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // All of them before the first is waited for: each has ends of the others' connections.
        let threads: Vec<_> = self.holders.drain(..).map(|holder| holder.thread).collect();
        for thread in threads {
            if let Err(error) = joined(thread) {
                eprintln!("open connections: {error:#}");
            }
        }
    }
}

fn joined(thread: JoinHandle<Result<()>>) -> Result<()> {
    thread.join().expect("no panic in a holder")
}

impl Holder {
    fn start(site: &Site, number: usize, share: usize) -> Result<Self> {
        let (go, told) = channel();
        let (tell, said) = channel();
        let (host, dialer) = (site.host.clone(), site.dialer());
        let source = site::further(number)?;
        let thread = thread::spawn(move || {
            let next = || -> Result<()> {
                tell.send(())?;
                told.recv().context("another holder has failed")
            };
            let from = (source, share);
            let (app, streams) = hold(&host, &dialer, from, next)?;
            tell.send(())?;
            // Until the crowd is dropped.
            let _ = told.recv();
            reset(streams)?;
            app.settle()
        });
        Ok(Self { go, said, thread })
    }
}

fn hold(
    host: &Netns,
    dialer: &Dialer,
    (source, count): (Ipv4Addr, usize),
    next: impl Fn() -> Result<()>,
) -> Result<(App, Vec<TcpStream>)> {
    files::split()?;
    let app = App::start(false)?;
    let ports = site::listen(&app, host)?;
    next()?;
    let sources = (FIRST_PORT..).take(count).map(u16::try_from);
    let dialed = dialer.place.enter(|| -> Result<Vec<_>> {
        sources
            .map(|port| Ok(dialer.dial_from((source, port?).into(), &MESSAGE)?))
            .collect()
    });
    let mut streams = dialed.with_context(|| format!("opening {count} connections"))?;
    pings::greet(&mut streams).context("the first bytes of open connections")?;
    next()?;
    ports.iter().for_each(|port| app.pause(port));
    Ok((app, streams))
}

/// Leaves no TIME_WAIT at the ports that the next crowd connects from.
fn reset(streams: Vec<TcpStream>) -> io::Result<()> {
    streams
        .iter()
        .try_for_each(|stream| SockRef::from(stream).set_linger(Some(Duration::ZERO)))
}
