//! The chart: for each of the main figures a bar per contender, with its rounds' spread as a line.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::kind::Kind;
use crate::lineup::Lineup;
use crate::results::{Better, Results, Row};
use crate::table::short;

/// Of the many, those that a reader chooses by.
const SHOWN: [&str; 8] = [
    "connect",
    "connect-fin",
    "up-1",
    "down-1",
    "ping-1 p50",
    "ping-16",
    "up-1 whole machine",
    "idle process",
];
const WIDTH: f64 = 320.0;
const BAR: usize = 16;
const LEFT: usize = 130;

pub fn draw(path: &Path, results: &Results, lineup: &Lineup) -> Result<()> {
    let shown = SHOWN
        .iter()
        .filter_map(|name| results.rows.iter().find(|row| row.metric.name == *name));
    let (mut body, mut y) = (String::new(), 10);
    for row in shown {
        y = group(&mut body, row, lineup, y)?;
    }
    let svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"600\" height=\"{y}\" \
         viewBox=\"0 0 600 {y}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    );
    fs::write(path, svg).with_context(|| format!("writing {}", path.display()))
}

/// Returns where the next one begins.
fn group(body: &mut String, row: &Row, lineup: &Lineup, top: usize) -> Result<usize, fmt::Error> {
    let kinds = lineup.kinds.iter().copied();
    let largest = kinds
        .clone()
        .filter_map(|kind| row.spread(kind))
        .fold(f64::MIN_POSITIVE, |largest, (_, most)| largest.max(most));
    let better = match row.metric.better {
        Better::More => "more is better",
        Better::Less => "less is better",
    };
    let mut y = top + BAR;
    writeln!(
        body,
        "<text x=\"10\" y=\"{y}\" font-weight=\"bold\">{}, {} \
         <tspan font-weight=\"normal\" fill=\"#777\">{better}</tspan></text>",
        row.metric.name, row.metric.unit
    )?;
    for kind in kinds {
        if let (Some(median), Some(spread)) = (row.median(kind), row.spread(kind)) {
            let at = |value: f64| LEFT as f64 + value.max(0.0) / largest * WIDTH;
            let figures = [spread.0, median, spread.1].map(at);
            bar(
                body,
                (&lineup.title(kind), colour(kind)),
                median,
                (figures, y),
            )?;
            y += BAR;
        }
    }
    Ok(y + BAR)
}

/// As long as the median, with a line from the smallest to the largest of the rounds.
fn bar(
    body: &mut String,
    (title, colour): (&str, &str),
    median: f64,
    ([least, end, most], top): ([f64; 3], usize),
) -> fmt::Result {
    writeln!(
        body,
        "<text x=\"{name}\" y=\"{text}\" text-anchor=\"end\">{title}</text>\
         <rect x=\"{LEFT}\" y=\"{bar}\" width=\"{width:.1}\" height=\"12\" fill=\"{colour}\"/>\
         <path d=\"M{least:.1} {line}H{most:.1}\" stroke=\"#444\"/>\
         <text x=\"{figure:.1}\" y=\"{text}\">{}</text>",
        short(median),
        name = LEFT - 6,
        text = top + BAR,
        bar = top + BAR - 11,
        line = top + BAR - 5,
        width = end - LEFT as f64,
        figure = most + 6.0,
    )
}

fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Direct => "#c8c8c8",
        Kind::Truepeer => "#d9480f",
        Kind::Daemon => "#f0b090",
        Kind::GoMmproxy | Kind::Haproxy | Kind::Nginx => "#74a0c8",
    }
}
