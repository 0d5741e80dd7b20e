//! Every rule of docs/PROXY-PROTOCOL.md has a test that names it, and no test names another.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Of the relay of datagrams, which truepeer doesn't do yet.
const LATER: &[&str] = &["U-5"];

#[test]
fn every_rule_is_named_by_a_test() {
    let mut rules = rules();
    rules.retain(|id| !LATER.contains(&id.as_str()));
    let named = named();
    let unnamed: Vec<_> = rules.difference(&named).collect();
    assert!(
        unnamed.is_empty(),
        "no test in tests/ names {unnamed:?}; write `[ID]` beside the one that checks it"
    );
}

#[test]
fn every_named_rule_exists() {
    let rules = rules();
    let unknown: Vec<_> = named()
        .into_iter()
        .filter(|id| !rules.contains(id))
        .collect();
    assert!(
        unknown.is_empty(),
        "docs/PROXY-PROTOCOL.md has no {unknown:?}"
    );
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The ids that begin the list items of the rules.
fn rules() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("docs/PROXY-PROTOCOL.md")).expect("the rules");
    let items = text.lines().filter_map(|line| line.strip_prefix("- "));
    let ids = items.filter_map(|item| item.split(' ').next());
    let rules: BTreeSet<_> = ids.filter(|id| is_id(id)).map(str::to_owned).collect();
    assert!(rules.len() > 80, "only {} rules found", rules.len());
    rules
}

/// The ids in square brackets in the tests' sources.
fn named() -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for file in sources(&root().join("tests")) {
        let text = fs::read_to_string(&file).expect("a readable source");
        let bracketed = text.split('[').filter_map(|part| part.split_once(']'));
        ids.extend(
            bracketed
                .map(|(id, _)| id.to_owned())
                .filter(|id| is_id(id)),
        );
    }
    ids
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a readable directory");
    let paths = entries.map(|entry| entry.expect("a readable entry").path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => sources(&path),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// `V1-7`, `SEC-3`: a word, a dash, a number.
fn is_id(text: &str) -> bool {
    text.split_once('-').is_some_and(|(group, number)| {
        ["G", "V1", "V2", "U", "SPP", "SEC", "S"].contains(&group)
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}
