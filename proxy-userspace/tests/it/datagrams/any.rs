//! `--header any`, which is v2 here: what has another header, or one of a stream, is refused and counted.

use anyhow::{Context, Result, ensure};

use super::clients::ended;
use super::rows;
use super::site::Plan;
use crate::lab::datagram::{self, Framing};
use crate::lab::header::{self, Version};

rows! {
    v2_alone;
    words_of_the_balancer_s_own;
    words_of_the_balancer_s_own_refused;
}

/// Of a client who is known, too: each datagram has to have one.
fn v2_alone(plan: Plan<'_>) -> Result<()> {
    let framing = Framing::Any;
    let site = Plan { framing, ..plan }.start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    let (client, front) = (site.client(1000), site.front());
    let refused = [
        (Version::V1.header(client, front), "v1_in_datagram", 1),
        (
            header::v2(0x21, client, front, &[]),
            "transport_mismatch",
            1,
        ),
        (datagram::spp(client, front), "bad_signature", 1),
        (Vec::new(), "bad_signature", 2),
    ];
    for (header, how, times) in refused {
        balancer.send(&[&header[..], b"refused"].concat())?;
        ended(&site, how, times)?;
    }
    site.app.saw_nobody()?;
    site.exchange(&balancer, 1000, b"again")?;
    site.end()
}

/// LOCAL, whatever is in it, and PROXY that names nobody.
fn nobody_s() -> [Vec<u8>; 3] {
    [(0x20, 0, 0), (0x20, 0x12, 12), (0x21, 0, 0)]
        .map(|(command, family, length)| header::v2_raw(command, family, &vec![0; length]))
}

/// As health checks are.
fn words_of_the_balancer_s_own(plan: Plan<'_>) -> Result<()> {
    let framing = Framing::Any;
    let site = Plan { framing, ..plan }.start()?;
    let balancer = site.balancer()?;
    for header in nobody_s() {
        balancer.send(&[&header[..], b"are you there"].concat())?;
        let (client, words) = site.app.next()?;
        ensure!(client == balancer.local_addr()?, "the app sees {client}");
        ensure!(words == b"are you there", "the app got {words:?}");
        let (answer, _) = datagram::receive(&balancer).context("the answer")?;
        ensure!(answer == words, "an answer of {answer:?}");
    }
    site.exchange(&balancer, 1000, b"hello")?;
    site.leaks.saw_none()
}

fn words_of_the_balancer_s_own_refused(plan: Plan<'_>) -> Result<()> {
    let site = Plan {
        framing: Framing::Any,
        args: &["--on-local", "reject"],
        ..plan
    }
    .start()?;
    let balancer = site.balancer()?;
    for (times, header) in (1..).zip(nobody_s()) {
        balancer.send(&[&header[..], b"are you there"].concat())?;
        ended(&site, "local_refused", times)?;
    }
    site.app.saw_nobody()?;
    site.exchange(&balancer, 1000, b"hello")?;
    site.end()
}
