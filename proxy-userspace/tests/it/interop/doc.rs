//! The tables as the README shows them.

use std::fmt::Write;
use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context, Result, ensure};

use super::{App, ROWS, Row, health};

const BEGIN: &str = "<!-- interop -->\n";
const END: &str = "<!-- /interop -->\n";
/// Set to anything, the test writes the file instead of failing.
const BLESS: &str = "TRUEPEER_BLESS";

#[test]
fn the_readme_shows_the_tables() -> Result<()> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let old = fs::read_to_string(&path).context("README.md")?;
    let (before, rest) = old.split_once(BEGIN).context("no begin")?;
    let (_, after) = rest.split_once(END).context("no end")?;
    let new = [before, BEGIN, &tables()?, END, after].concat();
    if old != new && env::var_os(BLESS).is_some() {
        return Ok(fs::write(path, new)?);
    }
    ensure!(
        old == new,
        "README.md differs from the tables in the tests; \
         `{BLESS}=1 cargo xtask test the_readme_shows_the_tables` writes it"
    );
    Ok(())
}

fn tables() -> Result<String> {
    let mut text = "\
| sender | setting | header | SMTP | sshd | HTTP | DNS |
|---|---|---|---|---|---|---|
"
    .to_owned();
    for row in ROWS {
        writeln!(text, "| {} |", cells(row).join(" | "))?;
    }
    text += "\n| health checks of | setting | header | app is up | app is down |\n\
             |---|---|---|---|---|\n";
    for row in health::ROWS {
        let health::Row {
            sender,
            setting,
            sent,
        } = row;
        writeln!(text, "| {sender} | `{setting}` | {sent} | ✓ | ✓ |")?;
    }
    Ok(text)
}

fn cells(row: &Row) -> Vec<String> {
    let header = match row.tlvs {
        "" => row.version.to_string(),
        tlvs => format!("{} with {tlvs}", row.version),
    };
    let mut cells = vec![row.sender.to_owned(), format!("`{}`", row.setting), header];
    for app in [App::Smtp, App::Sshd, App::Http, App::Dns] {
        let tested = row.apps.contains(&app);
        cells.push(if tested { "✓" } else { "" }.to_owned());
    }
    cells
}
