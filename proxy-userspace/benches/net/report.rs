//! The figures for programs, as JSON, and those that have no contenders to compare.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::args::Args;
use crate::lineup::Lineup;
use crate::results::{Results, Row};
use crate::site::CONGESTION_CONTROL;
use crate::table::short;

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

pub fn about(file: &str) -> String {
    fs::read_to_string(file)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

pub fn write_json(
    path: &Path,
    (results, notes): (&Results, &[Notes]),
    lineup: &Lineup,
    args: &Args,
) -> Result<()> {
    let versions = lineup
        .kinds
        .iter()
        .map(|kind| (kind.name().to_owned(), json!(lineup.version(*kind))));
    let report = json!({
        "kernel": about("/proc/sys/kernel/osrelease"),
        "versions": Value::Object(versions.collect()),
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
