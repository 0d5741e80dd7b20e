//! The figures for people, as a table, and for programs, as JSON.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::args::Args;
use crate::peers::Kind;
use crate::results::{Results, Row};
use crate::site::CONGESTION_CONTROL;

/// Figures that have no contenders to compare.
pub struct Notes {
    title: String,
    lines: Vec<(String, f64)>,
}

impl Notes {
    pub fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            lines: Vec::new(),
        }
    }

    pub fn add(&mut self, name: impl Into<String>, value: f64) {
        self.lines.push((name.into(), value));
    }

    pub fn print(&self) {
        println!("\n{}", self.title);
        for (name, value) in &self.lines {
            println!("  {name:<52} {:>10}", short(*value));
        }
    }

    fn json(&self) -> Value {
        let lines = self
            .lines
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)));
        json!({ "title": self.title, "figures": Value::Object(lines.collect()) })
    }
}

/// One line for each metric, truepeer's ratios behind the contenders.
pub fn print(results: &Results, contenders: &[Kind]) {
    print!("{:<36}", "median of the rounds");
    for kind in contenders {
        print!("{:>11}", kind.name());
    }
    println!("{:>10}{:>10}", "×direct", "×best peer");
    for row in &results.rows {
        print_row(row, contenders);
    }
}

fn print_row(row: &Row, contenders: &[Kind]) {
    print!(
        "{:<36}",
        format!("{}, {}", row.metric.name, row.metric.unit)
    );
    let cell = |value: Option<f64>| value.map_or("–".to_owned(), short);
    for kind in contenders {
        print!("{:>11}", cell(row.median(*kind)));
    }
    println!(
        "{:>10}{:>10}",
        cell(row.to_direct()),
        cell(row.to_best_peer())
    );
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

fn about(file: &str) -> String {
    fs::read_to_string(file)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

pub fn write_json(path: &Path, results: &Results, notes: &[Notes], args: &Args) -> Result<()> {
    let report = json!({
        "kernel": about("/proc/sys/kernel/osrelease"),
        "congestion_control": CONGESTION_CONTROL,
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "load_at_the_end": about("/proc/loadavg"),
        "rounds": args.rounds(),
        "seconds": args.window().run.as_secs_f64(),
        "idle_connections": args.idle(),
        "streams_are_read": args.copy,
        "metrics": results.rows.iter().map(Row::json).collect::<Vec<_>>(),
        "notes": notes.iter().map(Notes::json).collect::<Vec<_>>(),
    });
    let text = serde_json::to_string_pretty(&report)?;
    fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}
