//! Debian's packages. Systems without apt are told what to look for.

use anyhow::{Result, bail};

use super::packages::Package;
use crate::privilege::{as_root, consent};
use crate::proc::{command, exists, step, succeed};

/// Runs as root. A script, because it has to clean up after Ctrl-C too.
const INSTALL: &str = include_str!("install.sh");

/// Asks at most once, and fetches the lists of packages at most once.
#[derive(Default)]
pub struct Apt {
    updated: bool,
    consent: Option<bool>,
}

impl Apt {
    /// Installs what is missing of these.
    pub fn ensure(&mut self, wanted: &[Package<'_>]) -> Result<()> {
        if !exists("apt-get") {
            return look_for(wanted);
        }
        let missing = missing(&installed(wanted), wanted);
        if missing.is_empty() {
            return Ok(());
        }
        self.install(&missing)
    }

    fn install(&mut self, missing: &[Package<'_>]) -> Result<()> {
        announce(missing);
        let names: Vec<_> = missing.iter().map(|package| package.name).collect();
        let names = names.join(" ");
        let by_hand = format!("apt-get install --no-install-recommends {names}");
        let may = || consent("    install them");
        if !*self.consent.get_or_insert_with(may) {
            bail!("nothing was installed: run `sudo {by_hand}` yourself");
        }
        let update = if self.updated { "" } else { "update" };
        self.updated = true;
        let mut install = as_root("sh");
        install.args(["-euc", INSTALL, "install.sh", update]);
        succeed(
            install.args(names.split(' ')),
            &format!("`{by_hand}` failed"),
        )
    }
}

fn announce(missing: &[Package<'_>]) {
    step("missing, for apt to install, which starts no service of theirs before a reboot:");
    for Package { name, why, .. } in missing {
        eprintln!("      {name:<24} {why}");
    }
}

/// Which of these packages dpkg has, a `name status` on each line.
fn installed(wanted: &[Package<'_>]) -> String {
    let mut query = command("dpkg-query");
    query.args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"]);
    query.args(wanted.iter().map(|package| package.name));
    // It fails as soon as one is unknown, but prints the others all the same.
    let output = query.output().map(|output| output.stdout);
    String::from_utf8_lossy(&output.unwrap_or_default()).into_owned()
}

fn missing<'a>(installed: &str, wanted: &[Package<'a>]) -> Vec<Package<'a>> {
    let is_there = |package: &&Package<'_>| {
        let line = format!("{} installed", package.name);
        installed.lines().any(|other| other == line)
    };
    let missing = wanted.iter().filter(|package| !is_there(package));
    missing.copied().collect()
}

/// Without apt there is nothing to install with, only to look for.
fn look_for(wanted: &[Package<'_>]) -> Result<()> {
    let missing: Vec<_> = wanted
        .iter()
        .filter(|package| !package.program.is_empty() && !exists(package.program))
        .map(|package| format!("{} ({})", package.program, package.why))
        .collect();
    if !missing.is_empty() {
        bail!("there is no apt here: install {}", missing.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::packages;
    use super::*;

    #[test]
    fn only_what_dpkg_calls_installed_is_there() {
        let wanted = packages::llvm("llvm-22-dev");
        // A package that was removed but not purged is still known.
        let missing = missing("g++ config-files\nllvm-22-dev installed\n", &wanted);
        let names: Vec<_> = missing.iter().map(|package| package.name).collect();
        assert_eq!(names, ["g++"]);
    }

    #[test]
    fn everything_is_missing_when_dpkg_knows_nothing() {
        let missing = missing("", packages::TESTS);
        assert_eq!(missing.len(), packages::TESTS.len());
    }
}
