//! A child process: its output as lines to wait for, and its end.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::poll::{self, PATIENCE};

/// Killed and waited for on drop.
pub struct Proc {
    name: String,
    child: Child,
    output: Arc<Output>,
}

#[derive(Default)]
struct Output {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
    /// What it says stays in the pipe.
    is_unread: bool,
}

impl Proc {
    /// Collects standard output and standard error as one stream.
    pub(super) fn spawn(mut command: Command, stdin: Stdio) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let (reader, writer) = io::pipe()?;
        command
            .stdin(stdin)
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let child = command
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let output = Arc::new(Output::default());
        let collector = Arc::clone(&output);
        thread::spawn(move || collector.collect(reader));
        Ok(Self {
            name,
            child,
            output,
        })
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn log(&self) -> Vec<String> {
        self.output.lock().lines.clone()
    }

    /// The first line, past or future, that contains `needle`.
    pub fn wait_line(&self, needle: &str) -> Result<String> {
        self.wait_lines(needle, 1).map(|mut lines| lines.remove(0))
    }

    /// Waits for `count` lines that contain `needle`; returns all that there are by then.
    pub fn wait_lines(&self, needle: &str, count: usize) -> Result<Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.output.lock();
        loop {
            let hits = state.lines.iter().filter(|line| line.contains(needle));
            let hits: Vec<_> = hits.cloned().collect();
            if hits.len() >= count {
                return Ok(hits);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let how = if state.ended { "ended" } else { "went on" };
                let log = state.lines.join("\n");
                bail!("{} {how} without \"{needle}\"; it said:\n{log}", self.name);
            }
            let woken = self.output.changed.wait_timeout(state, left);
            (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// From the next line on nobody reads what it says.
    pub fn leave_unread(&self) {
        self.output.lock().is_unread = true;
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid(), signal).with_context(|| format!("signalling {}", self.name))
    }

    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// By SIGKILL; whoever waits for its death goes on.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        poll::until("the daemon's death", || {
            Ok((!self.is_running()?).then_some(()))
        })
    }

    /// The memory that it holds, in bytes.
    pub fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.context("/proc has VmRSS")?.parse::<u64>()? * 1024)
    }

    /// The names of its threads.
    pub fn threads(&self) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            // It may end meanwhile.
            let name = fs::read_to_string(thread?.path().join("comm"));
            names.extend(name.map(|name| name.trim_end().to_owned()));
        }
        Ok(names)
    }

    /// How often its threads have gone to sleep.
    pub fn switches(&self) -> Result<u64> {
        let mut count = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let status = fs::read_to_string(thread?.path().join("status"))?;
            let fields = status.lines().filter_map(|line| line.split_once(':'));
            for (_, value) in fields.filter(|(name, _)| *name == "voluntary_ctxt_switches") {
                count += value.trim().parse::<u64>()?;
            }
        }
        Ok(count)
    }

    /// What `key` (`prog_id`, `link_id`, …) says of each of its file descriptors that has it.
    pub fn fd_info(&self, key: &str) -> Result<BTreeSet<u64>> {
        Ok(self.fd_infos(key)?.into_iter().collect())
    }

    /// The same of each file.
    pub fn fd_infos(&self, key: &str) -> Result<Vec<u64>> {
        let mut found = Vec::new();
        for fd in fs::read_dir(format!("/proc/{}/fdinfo", self.pid()))? {
            // one that was closed in between is gone
            let info = fs::read_to_string(fd?.path()).unwrap_or_default();
            let fields = info.lines().filter_map(|line| line.split_once(':'));
            for (_, value) in fields.filter(|(name, _)| *name == key) {
                found.push(value.trim().parse()?);
            }
        }
        Ok(found)
    }

    /// Waits for the process to end of its own accord, whoever reads what it says.
    pub fn wait_end(&mut self) -> Result<ExitStatus> {
        let what = format!("{} to exit", self.name);
        poll::until(&what, || Ok(self.child.try_wait()?))
    }

    /// Waits for the process to end of its own accord, and for the last of its output.
    pub fn wait_exit(&mut self) -> Result<ExitStatus> {
        let what = format!("{} to exit; it said:\n{}", self.name, self.log().join("\n"));
        let status = poll::until(&what, || Ok(self.child.try_wait()?))?;
        poll::until("the end of its output", || {
            Ok(self.output.lock().ended.then_some(()))
        })?;
        Ok(status)
    }
}

/// How many of `what` a process has, of the directories in /proc: `fd`, `task`.
pub fn entries(process: Pid, what: &str) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/{what}", process.as_raw_nonzero()))?.count())
}

impl Drop for Proc {
    fn drop(&mut self) {
        self.output.lock().is_unread = false;
        self.output.changed.notify_all();
        // Both fail only if it has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The test runner keeps this to itself unless the test fails.
        if cfg!(test) {
            eprintln!("--- {} said:\n{}", self.name, self.log().join("\n"));
        }
    }
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(&self, reader: PipeReader) {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let mut state = self.lock();
            state.lines.push(line);
            self.changed.notify_all();
            while state.is_unread {
                let woken = self.changed.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
            }
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }
}
