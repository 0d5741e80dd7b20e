//! Wherever the app is, and however it has its sockets.

use anyhow::Result;

use super::rows;
use super::site::Plan;
use crate::lab::addr::{HOST, WILDCARD};
use crate::lab::datagram::{Framing, Kind};

rows! {
    on_loopback;
    on_a_wildcard_address;
    on_the_host_s_address;
    on_a_wildcard_address_by_the_host_s;
    with_a_socket_for_each_client;
}

/// In each framing.
fn exchanges(plan: Plan<'_>) -> Result<()> {
    for framing in Framing::ALL {
        let site = Plan { framing, ..plan }.start()?;
        let balancer = site.balancer()?;
        site.exchange(&balancer, 1000, b"hello")?;
        // The second one of v2-first has no header.
        let header = match framing {
            Framing::V2First => Vec::new(),
            Framing::V2 | Framing::Spp => site.header(1000),
        };
        site.exchange_with(&balancer, &header, 1000, b"hello again")?;
        site.end()?;
    }
    Ok(())
}

fn on_loopback(plan: Plan<'_>) -> Result<()> {
    exchanges(plan)
}

fn on_a_wildcard_address(plan: Plan<'_>) -> Result<()> {
    let bind = WILDCARD;
    exchanges(Plan { bind, ..plan })
}

fn on_the_host_s_address(plan: Plan<'_>) -> Result<()> {
    let (target, bind) = (HOST, HOST);
    exchanges(Plan {
        target,
        bind,
        ..plan
    })
}

fn on_a_wildcard_address_by_the_host_s(plan: Plan<'_>) -> Result<()> {
    let (target, bind) = (HOST, WILDCARD);
    exchanges(Plan {
        target,
        bind,
        ..plan
    })
}

fn with_a_socket_for_each_client(plan: Plan<'_>) -> Result<()> {
    let (target, bind, kind) = (HOST, WILDCARD, Kind::Connected);
    let plan = Plan {
        target,
        bind,
        kind,
        ..plan
    };
    for framing in Framing::ALL {
        let site = Plan { framing, ..plan }.start()?;
        // All stay open, lest one gets the port of another.
        let balancers = [site.balancer()?, site.balancer()?, site.balancer()?];
        for (port, balancer) in (1000..).zip(&balancers) {
            site.exchange(balancer, port, b"hello")?;
        }
        site.end()?;
    }
    Ok(())
}
