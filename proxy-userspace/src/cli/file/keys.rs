//! Keys of a file, and the flags that they stand for.

use clap::{Arg, Command};

use super::super::args::RunArgs;

/// The flag that a key stands for.
pub fn argument<'c>(command: &'c Command, key: &str) -> Option<(&'static str, &'c Arg)> {
    let id = all().find(|id| in_file(id) == key)?;
    let argument = command
        .get_arguments()
        .find(|argument| argument.get_id() == id)?;
    Some((id, argument))
}

fn all() -> impl Iterator<Item = &'static str> {
    RunArgs::KEYS.into_iter().chain(["instance"])
}

pub fn unknown(key: &str) -> String {
    let all = all().map(in_file);
    let all = all.chain(["name", "service", "defaults"].map(str::to_owned));
    let near = all.map(|known| (strsim::jaro(&known, key), known));
    let near = near.filter(|(near, _)| *near > 0.7);
    match near.max_by(|one, other| one.0.total_cmp(&other.0)) {
        Some((_, known)) => format!("there is no key {key}: did you mean {known}?"),
        None => format!("there is no key {key}: see `truepeer example-config`"),
    }
}

/// A flag's key.
pub fn in_file(id: &str) -> String {
    match id {
        "allow_file" | "deny_file" => format!("{id}s"),
        _ => id.to_owned(),
    }
}

pub fn flag(id: &str) -> String {
    format!("--{}", id.replace('_', "-"))
}

/// Of what begins with a flag, as clap's `--listen <ADDR:PORT>`; and what is behind it.
pub fn id_in(words: &str) -> (String, &str) {
    let flag = words.trim_start_matches('-');
    let is_flags = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let end = flag.find(|c| !is_flags(c)).unwrap_or(flag.len());
    (flag[..end].replace('-', "_"), &flag[end..])
}

/// What is said of flags, as said of keys.
pub fn in_keys(words: &str) -> String {
    let word = |word: &str| match word {
        "-p" => "protocol".into(),
        _ if word.starts_with("--") => {
            let (id, behind) = id_in(word);
            in_file(&id) + behind
        }
        _ => word.to_owned(),
    };
    words.split(' ').map(word).collect::<Vec<_>>().join(" ")
}
