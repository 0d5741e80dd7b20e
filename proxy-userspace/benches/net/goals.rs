//! What truepeer's figures have to reach. Floors: the aim is direct itself.

use crate::results::{Better, Row};

#[derive(Clone, Copy)]
enum Of {
    Direct,
    /// What is more than direct's.
    BeyondDirect,
    BestPeer,
    /// The figure itself.
    All,
}

use Of::{All, BestPeer, BeyondDirect, Direct};

/// By metric: at least so much where more is better, at most where less is.
const GOALS: &[(&str, f64, Of)] = &[
    ("up-1", 0.88, Direct),
    ("up-1 whole machine", 1.2, Direct),
    ("down-1", 0.88, Direct),
    ("down-1 whole machine", 1.2, Direct),
    ("up-8", 0.88, Direct),
    ("up-8 whole machine", 1.2, Direct),
    ("down-8", 0.88, Direct),
    ("down-8 whole machine", 1.2, Direct),
    ("ping-1", 0.88, Direct),
    ("ping-16", 0.85, Direct),
    ("ping-16 p99", 1.5, Direct),
    ("connect", 0.85, Direct),
    ("connect", 1.4, BestPeer),
    ("connect-fin", 0.80, Direct),
    ("connect-header-alone", 0.75, Direct),
    // A megabyte for fifty thousand.
    ("idle process", 0.02, All),
    ("idle descriptors", 0.001, All),
    ("idle maps", 450.0, All),
    ("change seen, sysctl", 1000.0, All),
    ("change seen, routing rule", 1000.0, All),
    ("change seen, firewall rule", 1000.0, All),
    ("change seen, listener", 1000.0, All),
    ("udp-ping-64", 0.58, Direct),
    ("udp-ping-64", 2.3, BestPeer),
    ("udp-ping-64 whole machine", 4.0, BeyondDirect),
    ("udp-ping-64-1200", 0.58, Direct),
    ("udp-ping-64-1200", 2.3, BestPeer),
    ("udp-ping-64-1200 whole machine", 4.0, BeyondDirect),
    ("udp-up-64", 0.80, Direct),
    ("udp-up-64-1200", 0.80, Direct),
    ("udp-spp-ping-64", 0.50, Direct),
    ("udp-spp-ping-64 whole machine", 5.5, BeyondDirect),
    ("udp-spp-ping-64-1200", 0.50, Direct),
    ("udp-spp-ping-64-1200 whole machine", 5.5, BeyondDirect),
    ("udp-spp-up-64", 0.80, Direct),
    ("udp-spp-up-64-1200", 0.80, Direct),
    ("udp-idle maps", 350.0, All),
];

pub struct Goal {
    pub text: String,
    pub met: bool,
}

/// Those of this row that can be told from what was measured.
pub fn of(row: &Row) -> Vec<Goal> {
    let own = GOALS.iter().filter(|(name, ..)| *name == row.metric.name);
    own.filter_map(|&(_, bound, of)| {
        let (figure, whose) = match of {
            Direct => (row.to_direct(), "×direct".to_owned()),
            BeyondDirect => (
                row.beyond_direct(),
                format!("{} beyond direct", row.metric.unit),
            ),
            BestPeer => (row.to_best_peer(), "×best peer".to_owned()),
            All => (row.of_truepeer(), row.metric.unit.to_owned()),
        };
        let (sign, met) = match row.metric.better {
            Better::More => ("≥", figure? >= bound),
            Better::Less => ("≤", figure? <= bound),
        };
        let text = format!("{sign} {bound} {whose}");
        Some(Goal { text, met })
    })
    .collect()
}

/// In a line of a table.
pub fn text(row: &Row) -> String {
    let goals = of(row).into_iter().map(|goal| {
        let verdict = if goal.met { "met" } else { "NOT MET" };
        format!("{} {verdict}", goal.text)
    });
    goals.collect::<Vec<_>>().join(", ")
}
