//! The figures for people: a line for each metric, and its spread below.

use crate::goals;
use crate::lineup::Lineup;
use crate::results::{Results, Row};

const NAME: usize = 40;

/// truepeer's ratios behind the contenders, and what they ought to be.
pub fn print(results: &Results, lineup: &Lineup) {
    let heading = |kind: &_| lineup.title(*kind);
    line(
        "median of the rounds, and their spread",
        lineup.kinds.iter().map(heading),
        "  ×direct ×best peer  goals",
    );
    for row in &results.rows {
        print_row(row, lineup);
    }
}

fn print_row(row: &Row, lineup: &Lineup) {
    let cell = |value: Option<f64>| value.map_or("–".to_owned(), short);
    let ratios = format!(
        "{:>9}{:>11}  {}",
        cell(row.to_direct()),
        cell(row.to_best_peer()),
        goals::text(row)
    );
    let name = format!("{}, {}", row.metric.name, row.metric.unit);
    let medians = lineup.kinds.iter().map(|kind| cell(row.median(*kind)));
    line(&name, medians, &ratios);
    let spreads = lineup.kinds.iter().map(|kind| {
        let spread = row.spread(*kind).filter(|(least, most)| least < most);
        spread.map_or(String::new(), |(least, most)| {
            format!("{}–{}", short(least), short(most))
        })
    });
    let spreads: Vec<_> = spreads.collect();
    // Figures that only one round gives have none.
    if spreads.iter().any(|spread| !spread.is_empty()) {
        line("", spreads.into_iter(), "");
    }
}

fn line(name: &str, cells: impl Iterator<Item = String>, end: &str) {
    let cells: String = cells.map(|cell| format!("{cell:>18}")).collect();
    println!("{}", format!("{name:<NAME$}{cells}{end}").trim_end());
}

/// Three digits that count, or all before the point.
pub fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
