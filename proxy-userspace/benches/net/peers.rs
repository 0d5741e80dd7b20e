//! The contenders: started, watched and ended.

use std::fs;
use std::mem;
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::kind::Kind;
use crate::lab::addr::TRUEPEER_PORT;
use crate::lab::netns::Netns;
use crate::lab::proc::Proc;
use crate::lab::root::Root;
use crate::protocol::Protocol;
use crate::setups;
use crate::site::CONGESTION_CONTROL;
use crate::usage::Usage;

/// How to start a contender, whichever it is.
#[derive(Clone)]
pub struct Recipe {
    /// Where peers are; none is needed where none takes part.
    pub root: Option<Root>,
    pub protocol: Protocol,
    /// The allowlist's length.
    pub prefixes: usize,
}

impl Recipe {
    pub fn speaking(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    pub fn root(&self) -> Result<&Root> {
        let root = self.root.as_ref();
        root.context("say by --peers where the peers are; `cargo xtask bench` does that")
    }
}

/// Ends with the value.
pub struct Running {
    proc: Option<Proc>,
    /// truepeer's.
    instance: Option<String>,
    _dir: TempDir,
}

impl Running {
    pub fn pid(&self) -> Option<Pid> {
        self.proc.as_ref().map(Proc::pid)
    }

    pub fn proc(&self) -> Option<&Proc> {
        self.proc.as_ref()
    }

    pub fn instance(&self) -> Option<&str> {
        self.instance.as_deref()
    }
}

/// What truepeer leaves when it is killed.
fn left(instance: &str) -> Vec<PathBuf> {
    let run = ["lock", "sock", "status.sock", "keeper.sock"];
    let run = run.map(|file| format!("/run/truepeer/{instance}.{file}").into());
    let pins = format!("/sys/fs/bpf/truepeer/{instance}").into();
    run.into_iter().chain([pins]).collect()
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(proc) = self.proc.take() {
            end(proc);
        }
        for path in self.instance().map(left).unwrap_or_default() {
            let removed = match path.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            if let Err(error) = removed {
                eprintln!("{} stays: {error}", path.display());
            }
        }
    }
}

/// Kills it and waits. Not by dropping it, which prints all it ever said: for go-mmproxy that is a
/// line for each prefix of its allowlist. nginx's workers outlive a killed master.
pub fn end(mut proc: Proc) {
    let all = Usage::of(Some(proc.pid())).processes().unwrap_or_default();
    if proc.signal(Signal::KILL).is_ok() {
        while proc.is_running().unwrap_or(false) {
            thread::sleep(Duration::from_millis(5));
        }
    }
    for child in all.iter().skip(1).filter_map(|pid| pid.parse().ok()) {
        // It may have ended by itself meanwhile.
        let _ = Pid::from_raw(child).map(|child| kill_process(child, Signal::KILL));
    }
    mem::forget(proc);
}

pub fn start(kind: Kind, host: &Netns, recipe: &Recipe) -> Result<Running> {
    let dir = TempDir::new()?;
    let instance = kind.is_truepeer().then(instance);
    if kind.is_peer() {
        // For the replies to the clients, which would leave for the balancer otherwise.
        host.ip(&format!(
            "rule add from 127.0.0.1/8 iif lo table 123
             route add local 0.0.0.0/0 dev lo table 123 congctl {CONGESTION_CONTROL}"
        ))?;
    }
    let command = match kind {
        Kind::Direct => None,
        Kind::Truepeer | Kind::Daemon => {
            let instance = instance.as_deref().unwrap_or_default();
            Some(setups::truepeer(dir.path(), instance, kind, recipe)?)
        }
        Kind::GoMmproxy => Some(setups::go_mmproxy(dir.path(), recipe)?),
        Kind::Haproxy => Some(setups::haproxy(dir.path(), recipe)?),
        Kind::Nginx => Some(setups::nginx(dir.path(), recipe)?),
    };
    let mut proc = command.map(|command| host.spawn(command)).transpose()?;
    // A socket for datagrams only shows that it is there by an answer, which the site waits for.
    if let (Protocol::Tcp, Some(proc)) = (recipe.protocol, &mut proc) {
        host.wait_listening(proc, TRUEPEER_PORT)?;
    }
    if let (true, Some(proc)) = (kind.is_truepeer(), &proc) {
        proc.wait_line("ready")?;
    }
    Ok(Running {
        proc,
        instance,
        _dir: dir,
    })
}

/// No other daemon of this machine has it.
fn instance() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("bench{}-{}", process::id(), NEXT.fetch_add(1, Relaxed))
}
