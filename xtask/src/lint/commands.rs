//! Commands of `cargo xtask` in documents, which must be such as can be typed. Those of `truepeer` are
//! held to the same by its own tests.

use std::fs;

use anyhow::{Context, Result};
use clap::Parser;

use super::sources;
use crate::Task;
use crate::proc::root;

pub fn complaints() -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for path in sources::files(root(), "md")? {
        let text = fs::read_to_string(root().join(&path)).with_context(|| path.clone())?;
        complaints.extend(complaints_about(&path, &text));
    }
    Ok(complaints)
}

fn complaints_about(path: &str, document: &str) -> Vec<String> {
    let commands = commands(document).filter(|(_, command)| command.starts_with("cargo xtask "));
    let wrong = commands.filter_map(|(line, command)| {
        let why = wrong(command)?;
        Some(format!("{path}:{line}: `{command}` can't be typed: {why}"))
    });
    wrong.collect()
}

/// The lines of blocks for a shell, with their numbers.
fn commands(document: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_block = false;
    (1..).zip(document.lines()).filter(move |(_, line)| {
        if line.starts_with("```") {
            in_block = *line == "```sh";
            return false;
        }
        in_block
    })
}

/// What is wrong with it; a comment behind it is not.
fn wrong(command: &str) -> Option<String> {
    let Some(words) = shlex::split(command) else {
        return Some("an open quote".to_owned());
    };
    // clap calls "cargo xtask" one word.
    let error = Task::try_parse_from(&words[1..]).err()?;
    let first = error.to_string().lines().next().map(str::to_owned);
    first.filter(|_| error.use_stderr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(command: &str) -> usize {
        complaints_about("a.md", &format!("text\n```sh\n{command}\n```\n")).len()
    }

    #[test]
    fn what_clap_refuses_is_a_complaint() {
        assert_eq!(complaints("cargo xtask test    # all tests"), 0);
        assert_eq!(complaints("cargo xtask test --kernel 6.1 lifecycle"), 0);
        assert_eq!(complaints("cargo xtask lint --help"), 0);
        assert_eq!(complaints("cargo xtask tests"), 1);
        assert_eq!(complaints("cargo xtask lint --fast"), 1);
    }

    #[test]
    fn only_blocks_for_a_shell_count() {
        let text = "```text\ncargo xtask no\n```\ncargo xtask no\n";
        assert_eq!(complaints_about("a.md", text).len(), 0);
    }
}
