//! Datagrams of several clients, with a header in front of each.

pub mod app;
pub mod batch;
mod message;
mod one_way;
mod pings;
mod poll;
mod trunk;

use anyhow::Result;

use crate::app::{App, ECHO, SINK};
use crate::figures;
use crate::protocol::{Framing, Protocol};
use crate::results::Figures;
use crate::site::Site;
use crate::window::Window;
use trunk::{Payload, Trunk};

/// Of a load; idle ones aren't told apart.
const MOST_FLOWS: usize = 64;
const SHORT: usize = 64;
/// With a header, and in as many layers as there are, it still fits an Ethernet frame.
const LONG: usize = 1200;

#[derive(Clone, Copy)]
pub struct Load {
    framing: Framing,
    what: What,
    flows: usize,
    len: usize,
}

#[derive(Clone, Copy)]
enum What {
    /// On each flow one datagram and its echo, one after the other.
    Pings,
    /// As many as go through, to an app that answers none.
    Up,
}

impl Load {
    pub fn of(framing: Framing) -> impl Iterator<Item = Self> {
        let all = [
            (What::Pings, 1, SHORT),
            (What::Pings, 1, LONG),
            (What::Pings, MOST_FLOWS, SHORT),
            (What::Pings, MOST_FLOWS, LONG),
            (What::Up, 1, SHORT),
            (What::Up, 1, LONG),
            (What::Up, MOST_FLOWS, SHORT),
            (What::Up, MOST_FLOWS, LONG),
        ];
        all.into_iter().map(move |(what, flows, len)| Self {
            framing,
            what,
            flows,
            len,
        })
    }

    pub fn name(self) -> String {
        let what = match self.what {
            What::Pings => "ping",
            What::Up => "up",
        };
        let len = match self.len {
            SHORT => String::new(),
            len => format!("-{len}"),
        };
        Protocol::Udp(self.framing).row(&format!("{what}-{}{len}", self.flows))
    }

    pub fn run(self, site: &Site, app: &App, window: Window) -> Result<Figures> {
        let trunks = |wish| {
            let len = self.len;
            Trunk::of(site, self.flows, Payload { wish, len })
        };
        let name = self.name();
        Ok(match self.what {
            What::Pings => {
                let (spent, times) = pings::run(&mut trunks(ECHO)?, &site.usage(), window)?;
                figures::round_trips(&name, &spent, &times)
            }
            What::Up => {
                let spent = one_way::run(site, &mut trunks(SINK)?, app, window)?;
                spent.map_or_else(Figures::new, |spent| figures::datagrams(&name, &spent))
            }
        })
    }
}

/// So many new flows, each with one datagram that has been answered.
pub fn greet(site: &Site, flows: usize) -> Result<()> {
    let payload = Payload {
        wish: ECHO,
        len: SHORT,
    };
    for first in (0..flows).step_by(MOST_FLOWS) {
        let share = MOST_FLOWS.min(flows - first);
        pings::greet(&mut Trunk::of(site, share, payload)?)?;
    }
    Ok(())
}
