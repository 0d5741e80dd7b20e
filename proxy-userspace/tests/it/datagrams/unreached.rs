//! Clients whose datagrams reach no application: the balancer's socket hears of it, as if it were the application's
//! host, and nothing of it leaves for a client, or in a steer address's name.

use std::io;
use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};

use super::rows;
use super::site::{Plan, Site};
use crate::lab::addr::{HOST, LOOPBACK, WILDCARD};
use crate::lab::datagram;
use crate::steering::site::nft;

rows! {
    nobody_hears;
    a_firewall_says_no;
}

pub fn nobody_hears(plan: Plan<'_>) -> Result<()> {
    for (target, bind) in [(HOST, LOOPBACK), (LOOPBACK, HOST)] {
        let plan = Plan {
            target,
            bind,
            ..plan
        };
        let site = plan.start()?;
        let error = refused(&site, &site.balancer()?)?;
        let refused = error.kind() == io::ErrorKind::ConnectionRefused;
        ensure!(refused, "{error} of {target:?}");
        site.leaks.saw_none()?;
    }
    Ok(())
}

/// To a client that is known.
pub fn a_firewall_says_no(plan: Plan<'_>) -> Result<()> {
    for target in [LOOPBACK, HOST] {
        let bind = WILDCARD;
        let plan = Plan {
            target,
            bind,
            ..plan
        };
        let site = plan.start()?;
        let balancer = site.balancer()?;
        site.exchange(&balancer, 1000, b"hello")?;
        nft(
            &site.lab.host,
            "add table inet no
             add chain inet no input { type filter hook input priority 0 ; }
             add rule inet no input udp dport 8080 reject with icmpx type admin-prohibited",
        )?;
        let error = refused(&site, &balancer)?;
        // As each family has it.
        let expected = match site.service().is_ipv4() {
            true => libc::EHOSTUNREACH,
            false => libc::EACCES,
        };
        ensure!(error.raw_os_error() == Some(expected), "{error}");
        site.app.saw_nobody()?;
        nft(&site.lab.host, "delete table inet no")?;
        site.exchange(&balancer, 1000, b"again")?;
        site.leaks.saw_none()?;
    }
    Ok(())
}

/// What the balancer hears instead of an answer.
fn refused(site: &Site, balancer: &UdpSocket) -> Result<io::Error> {
    balancer.send(&[&site.header(1000)[..], b"refused"].concat())?;
    let error = datagram::receive(balancer).err().context("an answer")?;
    error.downcast().context("of I/O")
}
