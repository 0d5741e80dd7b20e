//! What the machine is for: the programs that it takes, and the one that it runs.

use std::path::{Path, PathBuf};

use super::cards::Cards;
use crate::proc::truepeer;
use crate::test::FULL;

/// Of this machine, for tests to start.
const FOR_TESTS: [&str; 14] = [
    "bpftool", "curl", "ethtool", "ip", "nft", "nsenter", "openssl", "prlimit", "setpriv", "ss",
    "sysctl", "tc", "unshare", "wg",
];

/// Two cards for the tests' labs, as `init.sh` names them: a lab fails that doesn't find them.
const CARDS: &str = "TRUEPEER_CARDS";

/// What a kernel makes a difference to, as far as it needs no programs but those in the image.
const DEFAULT: [&str; 8] = [
    "allowlist",
    "apps::an_echo",
    "apps::app_knows",
    "apps::bound_to",
    "lifecycle",
    "qdiscs",
    "steering",
    "untouched",
];

pub struct Job {
    /// As they are called there, and where they are here.
    pub built: Vec<(&'static str, PathBuf)>,
    /// Looked for here.
    pub programs: &'static [&'static str],
    pub command: Vec<String>,
}

impl Job {
    /// Tests with one of `filter` in their names.
    pub fn tests(tests: &Path, filter: &[String], cards: Option<Cards>, all: bool) -> Self {
        let mut command = vec!["env".to_owned()];
        command.extend(all.then(|| format!("{FULL}=1")));
        command.extend(cards.map(|_| format!("{CARDS}=card00 card01")));
        // What other kernels may lack, this one has.
        command.extend(["tests", "--include-ignored"].map(str::to_owned));
        // One lab at a time can have the cards.
        command.extend(cards.map(|_| "--test-threads=1".to_owned()));
        match filter {
            [] => command.extend(DEFAULT.map(str::to_owned)),
            chosen => command.extend_from_slice(chosen),
        }
        Self {
            built: vec![("truepeer", truepeer()), ("tests", tests.to_owned())],
            programs: &FOR_TESTS,
            command,
        }
    }

    /// Loads the programs and attaches them.
    pub fn load() -> Self {
        Self {
            built: vec![("truepeer", truepeer())],
            programs: &["ip"],
            command: vec!["/load".to_owned()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(filter: &[&str], cards: Option<Cards>) -> Vec<String> {
        let filter: Vec<_> = filter.iter().map(|&name| name.to_owned()).collect();
        Job::tests(Path::new("it"), &filter, cards, false).command
    }

    #[test]
    fn a_filter_replaces_the_usual_tests() {
        assert!(command(&[], None).contains(&"steering".to_owned()));
        assert_eq!(
            command(&["cli"], None),
            ["env", "tests", "--include-ignored", "cli"]
        );
    }

    #[test]
    fn two_labs_never_share_the_cards_and_none_goes_without() {
        let with_cards = command(&[], Some(Cards::Virtio));
        assert!(with_cards.contains(&"--test-threads=1".to_owned()));
        assert!(with_cards.contains(&"TRUEPEER_CARDS=card00 card01".to_owned()));
    }
}
