//! Commands in documents can be typed: those of `truepeer` in blocks for a shell and in units.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::Parser as _;
use proxy_common::Counter;
use walkdir::WalkDir;

use super::args::Cli;
use crate::header::Refusal;
use crate::relay::{End, Exceeded, Martian};

#[test]
fn every_command_of_the_documents_parses() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut parsed = 0;
    let walk = WalkDir::new(&root).into_iter();
    // In a build directory lie the documents of others.
    let walk = walk.filter_entry(|entry| entry.file_name() != "target");
    for entry in walk {
        let entry = entry.expect("the repository can be read");
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "md")
        {
            let document = fs::read_to_string(entry.path()).expect("UTF-8");
            for command in commands(&document) {
                let wrong = wrong(command);
                assert_eq!(wrong, None, "`{command}` in {}", entry.path().display());
                parsed += 1;
            }
        }
    }
    assert!(parsed > 5, "only {parsed} commands");
}

#[test]
fn what_cannot_be_typed_is_found() {
    let document = "```sh\nsudo truepeer run --no-such-flag  # text\n```\ntruepeer nonsense\n";
    let found: Vec<_> = commands(document).collect();
    assert_eq!(found, ["truepeer run --no-such-flag  # text"]);
    assert!(wrong(found[0]).is_some_and(|why| why.contains("--no-such-flag")));
    assert_eq!(wrong("truepeer status --json  # as JSON"), None);
}

#[test]
fn the_operators_page_explains_each_name() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operating.md");
    let page = fs::read_to_string(page).expect("the page can be read");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split(" | ").next());
    let explained: BTreeSet<_> = names
        .flat_map(|names| names.split(", "))
        .map(|name| name.trim_matches('`'))
        .collect();
    let counted = Counter::ALL.iter().map(|counter| counter.name());
    let ended = [End::NAMES, Martian::NAMES, Refusal::ALL].concat();
    let exceeded = Exceeded::ALL.map(Exceeded::name);
    let known: BTreeSet<_> = counted.chain(ended).chain(exceeded).collect();
    assert_eq!(explained, known);
}

fn commands(document: &str) -> impl Iterator<Item = &str> {
    let mut in_block = false;
    let lines = document.lines().filter(move |line| {
        if line.starts_with("```") {
            in_block = matches!(*line, "```sh" | "```ini");
        }
        in_block
    });
    lines.filter_map(|line| {
        // A unit's command has a path.
        let line = line
            .split_once("=/usr/local/bin/")
            .map_or(line, |(_, command)| command);
        let line = line.strip_prefix("sudo ").unwrap_or(line);
        line.starts_with("truepeer ").then_some(line)
    })
}

fn wrong(command: &str) -> Option<String> {
    let Some(words) = shlex::split(command) else {
        return Some("an open quote".to_owned());
    };
    let error = Cli::try_parse_from(words).err()?;
    // Help is an error too, for clap.
    error.use_stderr().then(|| error.to_string())
}
