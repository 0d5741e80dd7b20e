//! Whether somebody else has the steer addresses: what is for them would not get there any more.

use ipnet::IpNet;

use super::Finding;
use crate::{
    config::Config,
    netns::{Addresses, Way, answers, device_name, netlink, way_to},
};

const SUBJECT: &str = "steer network";

/// `asks`: looks for neighbours as well, which may take seconds.
pub async fn check(config: &Config, own: &Addresses, asks: bool) -> Vec<Finding> {
    let (chosen, nets) = (config.steer, config.steer.or_first());
    let mut findings = Vec::new();
    for (chosen, net, flag) in [
        (chosen.v4, nets.v4, "--steer4"),
        (chosen.v6, nets.v6, "--steer6"),
    ] {
        let Some(net) = net.map(|net| net.net()) else {
            continue;
        };
        let held = match held(&net, own).await {
            None => by_others(&net, chosen.is_some(), asks).await,
            held => held,
        };
        findings.push(match held {
            None => Finding::ok(SUBJECT, format!("{net} is nobody else's")),
            Some(held) => {
                let next = format!("choose a network that nobody has, by {flag}");
                Finding::fail(SUBJECT, held, next)
            }
        });
    }
    findings
}

/// The host's own address in there, unless it is of an instance's.
async fn held(net: &IpNet, own: &Addresses) -> Option<String> {
    let netlink = netlink().ok()?;
    for (address, index) in own.unicast_in(net) {
        let device = device_name(&netlink, index).await.ok()?;
        if !is_ours(&device) {
            return Some(format!(
                "{net} has this host's own address {address}, of {device}"
            ));
        }
    }
    None
}

/// Whichever instance's it is.
fn is_ours(device: &str) -> bool {
    device.starts_with("truepeer")
}

/// The defaults may lie in a network of the host's, as 169.254.0.0/16 where it is in use: what counts is
/// whether anybody has the address there.
async fn by_others(net: &IpNet, is_chosen: bool, asks: bool) -> Option<String> {
    if !asks && !is_chosen {
        return None;
    }
    let first = net.addr();
    let Ok(Way::Out(hop)) = way_to(first).await else {
        return None;
    };
    // Truepeer's own is the last resort where there is no other route.
    if hop.is_router || is_ours(&hop.device) {
        return None;
    }
    if asks && answers(&hop).await.unwrap_or_default() {
        return Some(format!(
            "{first} answers on {}: it is a neighbour's",
            hop.device
        ));
    }
    is_chosen.then(|| format!("{net} is in the network of {}", hop.device))
}
