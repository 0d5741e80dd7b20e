//! Whether somebody else has the steer addresses: what is for them would not get there any more.

use super::Finding;
use crate::{
    config::Config,
    netns::{SteerNet, Way, answers, way_to},
};

const SUBJECT: &str = "steer network";

pub async fn check(config: &Config) -> Vec<Finding> {
    let (chosen, nets) = (config.steer, config.steer.or_first());
    let mut findings = Vec::new();
    for (chosen, net, flag) in [
        (chosen.v4, nets.v4, "--steer4"),
        (chosen.v6, nets.v6, "--steer6"),
    ] {
        if let Some(net) = net {
            findings.push(look(net, chosen.is_some(), flag).await);
        }
    }
    findings
}

/// The defaults may lie in a network of the host's, as 169.254.0.0/16 where it is in use: what counts is
/// whether anybody has the address there.
async fn look(net: SteerNet, is_chosen: bool, flag: &str) -> Finding {
    let next = format!("choose a network that nobody has, by {flag}");
    let free = Finding::ok(SUBJECT, format!("{net} is nobody else's"));
    let Some(first) = net.address(0) else {
        return free;
    };
    match way_to(first).await {
        Ok(Way::Out(hop)) if !hop.is_router => match answers(&hop).await {
            Ok(true) => {
                let message = format!("{first} answers on {}: it is a neighbour's", hop.device);
                Finding::fail(SUBJECT, message, next)
            }
            _ if is_chosen => {
                let message = format!("{net} is in the network of {}", hop.device);
                Finding::fail(SUBJECT, message, next)
            }
            _ => free,
        },
        _ => free,
    }
}
