//! Where a client says that he has sent to, as an SPP header has it.

use anyhow::{Result, ensure};

use super::rows;
use super::site::Plan;
use crate::lab::addr::{FRONT, FRONT_PORT, OTHER_CLIENT};
use crate::lab::datagram::{self, Framing};

rows! {
    one_client_of_two_services;
}

/// Each answer has the header of the datagram that it answers.
fn one_client_of_two_services(plan: Plan<'_>) -> Result<()> {
    let framing = Framing::Spp;
    let site = Plan { framing, ..plan }.start()?;
    let balancer = site.balancer()?;
    let fronts = [
        site.of(FRONT, FRONT_PORT),
        site.of(OTHER_CLIENT, FRONT_PORT),
        site.of(FRONT, FRONT_PORT + 1),
    ];
    for front in fronts {
        let words = [&datagram::spp(site.client(1000), front)[..], b"hello"].concat();
        balancer.send(&words)?;
        site.app_got(1000, b"hello")?;
        let (answer, _) = datagram::receive(&balancer)?;
        ensure!(answer == words, "{answer:x?} to {words:x?}");
    }
    site.end()
}
