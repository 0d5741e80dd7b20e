//! Every `truepeer` command that the README shows, run in the order in which it shows them.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::lab::addr::LOOPBACK;
use crate::lab::proc::Proc;
use crate::lab::server::Sshd;

#[test]
fn every_command_works() -> Result<()> {
    let lab = Lab::new()?;
    let _sshd = Sshd::start(&lab.host, LOOPBACK.v4(22))?;
    let mut running: Option<Proc> = None;
    let commands = commands()?;
    ensure!(
        commands.len() > 5,
        "the README shows too little: {commands:?}"
    );
    for command in commands {
        let mut args: Vec<&str> = command.split_whitespace().skip(1).collect();
        args.extend(["--instance", lab.instance()]);
        if args.first() == Some(&"run") && !args.contains(&"--help") {
            // One after the other: they serve the same address. One takes over from the one before.
            if !args.contains(&"--take-over") {
                drop(running.take());
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
fn commands() -> Result<Vec<String>> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(&readme)?;
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
            commands.push(line.replace("/etc/truepeer/allow", &allow_file()));
        }
    }
    Ok(commands)
}

/// A file in the format that the README describes.
fn allow_file() -> String {
    format!("{}/tests/it/allow.example", env!("CARGO_MANIFEST_DIR"))
}
