//! The figures in the documents, between two marks.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::args::Args;
use crate::goals;
use crate::lineup::Lineup;
use crate::report::about;
use crate::results::{Results, Row};
use crate::site::CONGESTION_CONTROL;
use crate::table::short;

const BEGIN: &str = "<!-- bench -->\n";
const END: &str = "<!-- /bench -->";

pub fn write(path: &Path, results: &Results, lineup: &Lineup, args: &Args) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let marks = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = marks.with_context(|| format!("{} has no marks", path.display()))?;
    let table = table(results, lineup, args);
    fs::write(path, format!("{before}{BEGIN}{table}{END}{after}"))
        .with_context(|| format!("writing {}", path.display()))
}

fn table(results: &Results, lineup: &Lineup, args: &Args) -> String {
    let kernel = about("/proc/sys/kernel/osrelease");
    let kernel = kernel.split('-').next().unwrap_or_default();
    let titles = lineup.kinds.iter().map(|kind| lineup.title(*kind));
    let mut lines = vec![
        format!(
            "Linux {kernel}, {} cores, {CONGESTION_CONTROL}; medians of {} rounds, and their spread:\n",
            std::thread::available_parallelism().map_or(0, usize::from),
            args.rounds(),
        ),
        line(
            "",
            titles,
            ["×&nbsp;direct", "×&nbsp;best&nbsp;peer", "goals"],
        ),
        line(
            "---",
            lineup.kinds.iter().map(|_| "---".to_owned()),
            ["---"; 3],
        ),
    ];
    lines.extend(results.rows.iter().map(|row| of(row, lineup)));
    lines.join("\n") + "\n"
}

fn of(row: &Row, lineup: &Lineup) -> String {
    let cells = lineup.kinds.iter().map(|kind| match row.median(*kind) {
        Some(median) => {
            let mut cell = short(median);
            if let Some((least, most)) = row.spread(*kind).filter(|(least, most)| least < most) {
                // A String takes whatever is written.
                let _ = write!(cell, " ({}–{})", short(least), short(most));
            }
            cell
        }
        None => "–".to_owned(),
    });
    let ratio = |ratio: Option<f64>| ratio.map(short).unwrap_or_default();
    let (direct, peer) = (ratio(row.to_direct()), ratio(row.to_best_peer()));
    let goals = goals::text(row);
    let name = format!("{}, {}", row.metric.name, row.metric.unit);
    line(&name, cells, [&direct, &peer, &goals])
}

fn line(name: &str, cells: impl Iterator<Item = String>, end: [&str; 3]) -> String {
    let cells: Vec<_> = cells.collect();
    format!("| {name} | {} | {} |", cells.join(" | "), end.join(" | "))
}
