//! Other people's programs on the same device see their packets, whoever came first.

use anyhow::{Context, Result, ensure};

use super::site::{nft, sysctl};
use super::{LOOPBACK_V4, datagrams, sees};
use crate::lab::Lab;
use crate::lab::addr::{HOST, TRUEPEER_PORT};
use crate::lab::app::App;
use crate::lab::datagram::{Echo, Framing, Kind};
use crate::lab::leaks::Watched;

macro_rules! filters_count {
    ($($when:ident $before:expr, $after:expr;)*) => { $(
        mod $when {
            use super::*;
            #[test] fn tcp() -> Result<()> { filters_count($before, $after, &TCP) }
            #[test] fn udp() -> Result<()> { filters_count($before, $after, &UDP) }
        }
    )* };
}

filters_count! {
    clsact_filters_from_before Some(add_filters), None;
    clsact_filters_from_after None, Some(add_filters);
}

type SetUp = fn(&Lab, &Spoken) -> Result<()>;
type After<'a> = &'a dyn Fn() -> Result<()>;

/// What the app and its clients talk by.
struct Spoken {
    /// Of IP.
    number: u8,
    /// Once truepeer is there, and then something else.
    talk: fn(&Lab, After<'_>) -> Result<()>,
}

const TCP: Spoken = Spoken {
    number: 6,
    talk: connection,
};
const UDP: Spoken = Spoken {
    number: 17,
    talk: exchange,
};

fn filters_count(before: Option<SetUp>, after: Option<SetUp>, spoken: &Spoken) -> Result<()> {
    let lab = Watched::new()?;
    before.map_or(Ok(()), |set_up| set_up(&lab, spoken))?;
    (spoken.talk)(&lab, &|| {
        after.map_or(Ok(()), |set_up| set_up(&lab, spoken))
    })
}

fn connection(lab: &Lab, after: After<'_>) -> Result<()> {
    let app = App::listen(&lab.host, LOOPBACK_V4.to)?;
    let _truepeer = lab.truepeer().start()?;
    after()?;
    count_what_passes(lab, || sees(lab, &app, LOOPBACK_V4.client))
}

fn exchange(lab: &Lab, after: After<'_>) -> Result<()> {
    let app = Echo::listen(&lab.host, LOOPBACK_V4.to, Kind::Unconnected)?;
    let _truepeer = lab.truepeer().args(Framing::V2.args()).start()?;
    after()?;
    let talk = || datagrams::sees(lab, HOST.v4(TRUEPEER_PORT), &app, LOOPBACK_V4.client);
    count_what_passes(lab, talk).context("that stays on its device")?;
    nft(
        &lab.host,
        "add table inet f
         add chain inet f input { type filter hook input priority 0; }",
    )?;
    count_what_passes(lab, talk).context("that goes by lo")
}

/// Three packets each way, or more.
fn count_what_passes(lab: &Lab, talk: impl FnOnce() -> Result<()>) -> Result<()> {
    let counts = || ["ingress", "egress"].map(|hook| count(lab, hook));
    let [before_in, before_out] = counts();
    talk()?;
    let [after_in, after_out] = counts();
    eprintln!("{}", lab.host.run("tc -s filter show dev edge ingress")?);
    ensure!(after_in? >= before_in? + 3, "they miss what comes in");
    ensure!(after_out? >= before_out? + 3, "they miss what goes out");
    Ok(())
}

/// Filters that match all of a protocol and copy it; the copies' device counts for nothing.
fn add_filters(lab: &Lab, spoken: &Spoken) -> Result<()> {
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
            "tc filter add dev edge {hook} protocol ip u32 match ip protocol {} 0xff \
             action mirred egress mirror dev copies",
            spoken.number
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
