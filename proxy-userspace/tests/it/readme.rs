//! Every `truepeer` command that the README shows, run in the order in which it shows them.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tempfile::NamedTempFile;

use crate::lab::Lab;
use crate::lab::addr::LOOPBACK;
use crate::lab::proc::Proc;
use crate::lab::server::Sshd;

#[test]
fn every_command_works() -> Result<()> {
    let lab = Lab::new()?;
    let _sshd = Sshd::start(&lab.host, LOOPBACK.v4(22))?;
    let mut running: Option<Proc> = None;
    let mut configuration = NamedTempFile::new()?;
    let readme = readme()?;
    let block = readme.split("```toml\n").nth(1);
    let block = block.and_then(|block| block.split("```").next());
    configuration.write_all(block.context("no configuration")?.as_bytes())?;
    let commands = commands(&configuration.path().to_string_lossy())?;
    ensure!(
        commands.len() > 5,
        "the README shows too little: {commands:?}"
    );
    for command in commands {
        let mut args: Vec<&str> = command.split_whitespace().skip(1).collect();
        if args != ["example-config"] {
            args.extend(["--instance", lab.instance()]);
        }
        if args.first() == Some(&"run") && !args.contains(&"--help") {
            // One after the other: they serve the same address. One takes over from the one before.
            if !args.contains(&"--take-over") {
                if let Some(mut before) = running.take() {
                    // A killed one's keeper waits for the next one, as long as the document's commands say.
                    before.signal(Signal::TERM)?;
                    before.wait_exit()?;
                }
                lab.no_device_left()?;
            }
            let daemon = lab
                .truepeer_daemon(&args)
                .with_context(|| command.clone())?;
            running = Some(daemon);
        } else {
            lab.truepeer_raw(&args)?
                .expect(0, &[])
                .with_context(|| command.clone())?;
        }
    }
    Ok(())
}

/// The lines of shell blocks and the unit's commands, with paths cut to the program's name.
fn commands(configuration: &str) -> Result<Vec<String>> {
    let text = readme()?;
    let mut commands = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_block = matches!(line, "```sh" | "```ini");
            continue;
        }
        let line = line
            .split_once("=/usr/local/bin/")
            .map_or(line, |(_, command)| command);
        if in_block && line.starts_with("truepeer ") {
            let line = line.replace("/etc/truepeer/allow", &allow_file());
            commands.push(line.replace("/etc/truepeer.toml", configuration));
        }
    }
    Ok(commands)
}

fn readme() -> Result<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    Ok(fs::read_to_string(&readme)?)
}

/// A file in the format that the README describes.
fn allow_file() -> String {
    format!("{}/tests/it/allow.example", env!("CARGO_MANIFEST_DIR"))
}
