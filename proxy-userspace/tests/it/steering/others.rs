//! Other people's programs on the same device see their packets, whoever came first.

use anyhow::{Context, Result, ensure};

use super::site::sysctl;
use super::{LOOPBACK_V4, sees};
use crate::lab::Lab;
use crate::lab::app::App;

#[test]
fn clsact_filters_from_before() -> Result<()> {
    filters_count(Some(add_filters), None)
}

#[test]
fn clsact_filters_from_after() -> Result<()> {
    filters_count(None, Some(add_filters))
}

type SetUp = fn(&Lab) -> Result<()>;

fn filters_count(before: Option<SetUp>, after: Option<SetUp>) -> Result<()> {
    let lab = Lab::new()?;
    before.map_or(Ok(()), |set_up| set_up(&lab))?;
    let app = App::listen(&lab.host, LOOPBACK_V4.to)?;
    let _truepeer = lab.truepeer().start()?;
    after.map_or(Ok(()), |set_up| set_up(&lab))?;
    let hooks = ["ingress", "egress"];
    let counts = || hooks.map(|hook| count(&lab, hook));
    let [before_in, before_out] = counts();
    sees(&lab, &app, LOOPBACK_V4.client)?;
    let [after_in, after_out] = counts();
    ensure!(after_in? >= before_in? + 3, "they miss what comes in");
    ensure!(after_out? >= before_out? + 3, "they miss what goes out");
    Ok(())
}

/// Filters that match and copy everything; the copies' device counts for nothing.
fn add_filters(lab: &Lab) -> Result<()> {
    lab.host.ip("link add copies type veth peer name void
         link set copies up addrgenmode none
         link set void up addrgenmode none")?;
    sysctl(&lab.host, "ipv6/conf/void/disable_ipv6", "1")?;
    // Truepeer's own on kernels without tcx.
    if !lab.host.run("tc qdisc show dev edge")?.contains("clsact") {
        lab.host.run("tc qdisc add dev edge clsact")?;
    }
    for hook in ["ingress", "egress"] {
        lab.host.run(&format!(
            "tc filter add dev edge {hook} protocol all u32 match u32 0 0 \
             action mirred egress mirror dev copies"
        ))?;
    }
    Ok(())
}

/// How many packets the filter's action has had.
fn count(lab: &Lab, hook: &str) -> Result<u64> {
    let line = format!("tc -s filter show dev edge {hook}");
    let text = lab.host.run(&line)?;
    let mut words = text.split_whitespace();
    words.by_ref().find(|word| *word == "Sent");
    // Sent N bytes M pkt
    let packets = words
        .nth(2)
        .with_context(|| format!("no count in {text}"))?;
    Ok(packets.parse()?)
}
