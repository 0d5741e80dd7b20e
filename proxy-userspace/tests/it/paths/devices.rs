//! A host with many devices: the start waits for those that routes lead to, and nothing leaves by one that
//! has no programs yet.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, bail, ensure};

use super::{CLIENT_PORT, Plan, Site, paths};
use crate::lab::Lab;
use crate::lab::addr::{CLIENT, FAR, WILDCARD};
use crate::lab::datagram;
use crate::lab::leaks::Leaks;
use crate::lab::stream::expect;
use crate::steering::site::ip;

/// Each takes the kernel as long as it takes to look at all of its CPUs, twice. Where all of them had
/// theirs too soon for anything to be seen, it is done again with more.
const OTHERS: [usize; 4] = [40, 80, 160, 320];
/// The last one that is made, and looked after.
const LAST: &str = "last";
const ALL: &str = "replies are steered on all";

paths! {
    those_without_routes_come_last;
}

fn those_without_routes_come_last(plan: Plan<'_>) -> Result<()> {
    for others in OTHERS {
        if is_told_apart(plan, others)? {
            return Ok(());
        }
    }
    bail!("{OTHERS:?} devices all had their programs before an application's first packet")
}

/// False if the daemon was too fast for anything to be seen.
fn is_told_apart(plan: Plan<'_>, others: usize) -> Result<bool> {
    let lead = RefCell::new(String::new());
    let set_up = |lab: &Lab| {
        add_devices(lab, others)?;
        lead.replace(lead_clients_to_last(lab, &plan)?);
        Ok(())
    };
    let plan = Plan {
        set_up: &set_up,
        ..plan
    };
    let site = plan.start()?;
    let leaks = Leaks::watch(&site.lab.client)?;
    site.lab.host.ip(&lead.borrow())?;
    let balancer = site.begin(CLIENT_PORT, b"words")?;
    let was_behind = !site.truepeer.log().iter().any(|line| line.contains(ALL));
    let line = site.truepeer.wait_line(ALL)?;
    // The balancer's, and the other end of the last one's makes no difference.
    let count = format!("{ALL} {} devices", others + 2);
    ensure!(line.contains(&count), "{line}");
    arrives(&site, balancer)?;
    let links = site.truepeer.fd_info("link_id")?;
    ensure!(links.len() > 2 * others, "only {} links", links.len());
    if was_behind {
        speak_to_somebody_else(&site)?;
        leaks.saw_none()?;
    }
    Ok(was_behind)
}

fn add_devices(lab: &Lab, others: usize) -> Result<()> {
    let each = (0..others)
        .map(|number| format!("link add other{number} type bridge\nlink set other{number} up\n"));
    lab.host.ip(&each.collect::<String>())?;
    let client = lab.client.path();
    ip(
        &lab.host,
        &format!(
            "link add {LAST} type veth peer name {LAST} netns {}\nlink set {LAST} up",
            client.display()
        ),
    )?;
    ip(&lab.client, &format!("link set {LAST} up"))
}

/// What has the way to the client be by a device that has no programs yet: said at once, as the daemon is quick.
fn lead_clients_to_last(lab: &Lab, plan: &Plan<'_>) -> Result<String> {
    let client = (plan.family)(CLIENT, 0).ip();
    let mac = lab.client.mac(LAST)?.map(|byte| format!("{byte:02x}"));
    let mac = mac.join(":");
    Ok(format!(
        "neigh add {client} lladdr {mac} dev {LAST}\nroute add {client} dev {LAST}\n"
    ))
}

/// So that whoever looks there has something to see: the balancer is on this side of it.
fn speak_to_somebody_else(site: &Site) -> Result<()> {
    let to = datagram::socket(&site.lab.client, site.of(FAR, CLIENT_PORT))?;
    let from = datagram::socket(&site.lab.edge, site.of(WILDCARD, 0))?;
    from.send_to(b"a datagram", to.local_addr()?)?;
    datagram::receive(&to)?;
    Ok(())
}

fn arrives(site: &Site, balancer: TcpStream) -> Result<()> {
    let (mut app, client): (TcpStream, SocketAddr) = site.app.accept()?;
    ensure!(client == site.client(CLIENT_PORT), "from {client}");
    expect(&mut app, b"words")?;
    let mut talk = crate::lab::talk::Talk { balancer, app };
    talk.ping_pong(64, 10).context("once all are steered")
}
