//! What nftables does with packets on their way in, read by way of `nft -j`.
//!
//! The direct path takes a balancer's packets before netfilter sees them, and gives the application
//! packets that look otherwise. So each rule that is about them matters: one that changes packets
//! would not any more, and one that judges them would not see them.

mod clients;
mod fields;
mod fit;
mod nat;
mod parse;
mod walk;

use std::{
    net::IpAddr,
    ops::RangeInclusive,
    process::{Command, Stdio},
};

use ipnet::IpNet;

pub use clients::{Against, LateBan};
pub use fit::Packets;
pub use nat::Sources;
pub use walk::Reached;

use super::Family;
use crate::config::Transport;

/// The chains that packets to this host go through, and those that rename what leaves it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    chains: Vec<Chain>,
    /// Chains of type nat that have rules, wherever they are. With conntrack's nat at work, the
    /// kernel takes a connection that begins with a segment for a stranger's: seen on Linux 6.18.
    nats: Vec<ChainId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    id: ChainId,
    /// None where only jumps lead.
    hook: Option<Hook>,
    /// What no rule says anything of.
    drops: bool,
    rules: Vec<Rule>,
}

/// As `nft` has it: `inet guard input`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ChainId {
    family: String,
    table: String,
    name: String,
}

impl ChainId {
    fn is_for(&self, family: Family) -> bool {
        match &*self.family {
            "ip" => family == Family::V4,
            "ip6" => family == Family::V6,
            _ => true,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Ingress,
    Inbound,
    Postrouting,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// `inet guard input: tcp dport 7000 drop`
    text: String,
    matches: Vec<Match>,
    effect: Effect,
    /// Chains of the same table.
    jumps: Vec<String>,
    /// Whether no packet comes back from there.
    goes: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Match {
    Port(Values<u16>),
    Source(Values<IpAddr>),
    Destination(Values<IpAddr>),
    Family(Family),
    Transport(Transport),
    Device(Devices),
    /// A match of iptables that looks at sources; nft shows no more of it.
    SomeSources,
    /// Never for TCP, nor for UDP.
    Others,
    /// Nobody here understands it.
    Unknown,
}

/// By one of these, or by none of them. A name may end with `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Devices {
    names: Vec<String>,
    negated: bool,
}

/// One of these, or none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Values<T> {
    ranges: Vec<RangeInclusive<T>>,
    negated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Accepts,
    Refuses,
    /// To the chain that led here.
    Returns,
    /// Counts, jumps, whatever leaves a packet as it is.
    Judges,
    /// Sends connections elsewhere, to that port if it says one, or answers them itself.
    Redirects(Option<u16>),
    /// Says how conntrack is to see a connection.
    Tracks,
}

impl<T: PartialOrd> Values<T> {
    fn include(&self, value: &T) -> bool {
        self.ranges.iter().any(|range| range.contains(value)) != self.negated
    }
}

impl Values<IpAddr> {
    /// Whether any address of `net` is in here by name.
    fn name_some_of(&self, net: &IpNet) -> bool {
        let overlap = |range: &RangeInclusive<IpAddr>| {
            *range.start() <= net.broadcast() && net.network() <= *range.end()
        };
        self.ranges.iter().any(overlap)
    }
}

impl Ruleset {
    pub fn read() -> Result<Self, String> {
        // Stateless: a counter is no change.
        let json = serde_json::from_str(&list(&["-j", "-s"])?)
            .map_err(|error| format!("nft spoke an unknown JSON: {error}"))?;
        let ruleset = Self::parse(&json);
        if ruleset.is_empty() {
            return Ok(ruleset);
        }
        // The JSON has no text to show people, only handles.
        Ok(ruleset.with_texts(&list(&["-s", "-a"])?))
    }

    fn is_empty(&self) -> bool {
        self.nats.is_empty() && self.chains.iter().all(|chain| chain.rules.is_empty())
    }
}

fn list(flags: &[&str]) -> Result<String, String> {
    let mut nft = Command::new("nft");
    nft.args(flags).args(["list", "ruleset"]);
    let output = nft
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("can't run nft: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "nft says: {}",
            said.lines().next().unwrap_or_default()
        ));
    }
    String::from_utf8(output.stdout).map_err(|_| "nft spoke no UTF-8".into())
}
