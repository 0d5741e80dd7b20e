//! The sources that the house's rules are for, read and parsed once.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use walkdir::WalkDir;

use crate::proc::root;

/// Where there are any.
const CRATES: [&str; 4] = ["proxy-common", "proxy-ebpf", "proxy-userspace", "xtask"];

pub struct Source {
    /// From the repository's root.
    pub path: String,
    pub text: String,
    pub syntax: syn::File,
}

impl Source {
    pub fn parse(path: &str, text: String) -> Result<Self> {
        let syntax = syn::parse_file(&text).with_context(|| format!("{path} is not Rust"))?;
        let path = path.to_owned();
        Ok(Self { path, text, syntax })
    }
}

/// All of the workspace's, tests and benches too, in order.
pub fn read() -> Result<Vec<Source>> {
    let files = CRATES.map(|name| files(&root().join(name), "rs"));
    let mut sources = Vec::new();
    for path in files.into_iter().collect::<Result<Vec<_>>>()?.concat() {
        let text = fs::read_to_string(root().join(&path)).with_context(|| path.clone())?;
        sources.push(Source::parse(&path, text)?);
    }
    Ok(sources)
}

/// The files below `directory` that end like this, from the repository's root. None in `target`.
pub fn files(directory: &Path, extension: &str) -> Result<Vec<String>> {
    let walk = WalkDir::new(directory).sort_by_file_name().into_iter();
    let is_ours = |name: &str| name != "target" && (name == "." || !name.starts_with('.'));
    let walk = walk.filter_entry(|entry| entry.file_name().to_str().is_some_and(is_ours));
    let mut found = Vec::new();
    for entry in walk {
        let entry = entry?;
        if entry.path().extension().is_some_and(|own| own == extension) {
            let path = entry.path().strip_prefix(root())?;
            found.push(path.to_str().context("not UTF-8")?.to_owned());
        }
    }
    Ok(found)
}
