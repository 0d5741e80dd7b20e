//! The chart: for each of the main figures a bar per contender.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::peers::Kind;
use crate::report::short;
use crate::results::{Better, Results, Row};

/// Of the many, those that a reader chooses by.
const SHOWN: [&str; 8] = [
    "up-1",
    "down-1",
    "up-8",
    "ping-1 p50",
    "ping-16",
    "connect",
    "up-1 proxy CPU",
    "idle process",
];
const WIDTH: f64 = 320.0;
const BAR: usize = 16;
const LEFT: usize = 110;

pub fn draw(path: &Path, results: &Results, contenders: &[Kind]) -> Result<()> {
    let shown = SHOWN
        .iter()
        .filter_map(|name| results.rows.iter().find(|row| row.metric.name == *name));
    let (mut body, mut y) = (String::new(), 10);
    for row in shown {
        y = group(&mut body, row, contenders, y)?;
    }
    let svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"560\" height=\"{y}\" \
         viewBox=\"0 0 560 {y}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    );
    fs::write(path, svg).with_context(|| format!("writing {}", path.display()))
}

/// Returns where the next one begins.
fn group(
    body: &mut String,
    row: &Row,
    contenders: &[Kind],
    top: usize,
) -> Result<usize, fmt::Error> {
    let values = contenders
        .iter()
        .filter_map(|kind| Some((*kind, row.median(*kind)?)));
    let values: Vec<_> = values.collect();
    let largest = values
        .iter()
        .map(|(_, value)| *value)
        .fold(f64::MIN_POSITIVE, f64::max);
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
    for (kind, value) in values {
        let (width, colour) = (value.max(0.0) / largest * WIDTH, colour(kind));
        writeln!(
            body,
            "<text x=\"{name}\" y=\"{text}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{bar}\" width=\"{width:.1}\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{end:.1}\" y=\"{text}\">{}</text>",
            kind.name(),
            short(value),
            name = LEFT - 6,
            text = y + BAR,
            bar = y + BAR - 11,
            end = width + 6.0 + LEFT as f64,
        )?;
        y += BAR;
    }
    Ok(y + BAR)
}

fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Direct => "#c8c8c8",
        Kind::Truepeer => "#d9480f",
        Kind::GoMmproxy | Kind::Haproxy | Kind::Nginx => "#74a0c8",
    }
}
