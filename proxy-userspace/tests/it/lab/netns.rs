//! A network namespace without a name.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, PipeWriter, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, set_parent_process_death_signal};
use rustix::thread::{
    LinkNameSpaceType, UnshareFlags, gettid, move_into_link_name_space, unshare_unsafe,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::poll::{self, PATIENCE};
use super::proc::Proc;

#[derive(Clone)]
pub struct Netns {
    name: &'static str,
    fd: Arc<File>,
}

impl Netns {
    /// `name` is for messages only.
    pub fn new(name: &'static str) -> Result<Self> {
        let fd = thread::spawn(|| {
            // SAFETY: NEWNET only, so this thread goes on sharing its file descriptors with the others.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            File::open("/proc/thread-self/ns/net")
        })
        .join()
        .expect("the thread that makes a namespace doesn't panic")
        .context("making a network namespace needs root (CAP_SYS_ADMIN); run this with sudo")?;
        let netns = Self {
            name,
            fd: Arc::new(fd),
        };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The one that a process's threads are in that have left its own.
    pub fn of_threads(name: &'static str, process: Pid) -> Result<Self> {
        let process = format!("/proc/{}", process.as_raw_nonzero());
        let own = fs::read_link(format!("{process}/ns/net"))?;
        for thread in fs::read_dir(format!("{process}/task"))? {
            let path = thread?.path().join("ns/net");
            if fs::read_link(&path)? != own {
                let fd = Arc::new(File::open(path)?);
                return Ok(Self { name, fd });
            }
        }
        bail!("{process} has no thread in another network namespace");
    }

    /// A path that other processes can use for as long as the calling thread lives. Its own, as a
    /// thread can have descriptors for itself.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", gettid(), self.fd.as_raw_fd()).into()
    }

    /// Runs `work` on a thread inside the namespace. What it opens stays there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    join(self.fd.as_fd()).expect("a namespace that we hold can be entered");
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts `command` here. It dies with the thread that calls this.
    pub fn spawn(&self, command: Command) -> Result<Proc> {
        self.spawn_reading(command, Stdio::null())
    }

    /// The same for one that reads what is written here.
    pub fn spawn_listening(&self, command: Command) -> Result<(Proc, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        Ok((self.spawn_reading(command, reader.into())?, writer))
    }

    fn spawn_reading(&self, mut command: Command, stdin: Stdio) -> Result<Proc> {
        self.place(&mut command);
        Proc::spawn(command, stdin).with_context(|| format!("in {}", self.name))
    }

    /// Runs `command` here to its end, whatever that is.
    pub fn output(&self, mut command: Command) -> Result<Output> {
        self.place(&mut command);
        command.output().with_context(|| format!("{command:?}"))
    }

    /// Runs a command line here (split at blanks, no shell) and returns what it printed.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        let mut command = Command::new(program);
        command.args(words);
        let output = self.output(command)?;
        ensure!(
            output.status.success(),
            "`{line}` in {} failed: {}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a batch of `ip` commands here, one a line.
    pub fn ip(&self, batch: &str) -> Result<()> {
        self.batch("ip", &["-batch", "-"], batch)
    }

    /// Runs a program here that reads what to do, one a line.
    pub fn batch(&self, program: &str, args: &[&str], batch: &str) -> Result<()> {
        let mut command = Command::new(program);
        command.args(args);
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        self.place(&mut command);
        let mut child = command
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        let mut stdin = child.stdin.take().context("it has a stdin")?;
        stdin.write_all(batch.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{program} in {} failed: {stderr}in the batch\n{batch}",
                self.name
            );
        }
        Ok(())
    }

    /// The names of all devices.
    pub fn devices(&self) -> Result<BTreeSet<String>> {
        let table = self.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
        let names = table.lines().filter_map(|line| line.split_once(':'));
        Ok(names.map(|(name, _)| name.trim().to_owned()).collect())
    }

    /// Waits until `proc` listens on `port`, without a connection that the app behind it would see.
    pub fn wait_listening(&self, proc: &mut Proc, port: u16) -> Result<()> {
        poll::until(&format!("a listener on port {port}"), || {
            if !proc.is_running()? {
                bail!("it ended instead: {}", proc.log().join("\n"));
            }
            Ok(self.listens(port)?.then_some(()))
        })
    }

    fn listens(&self, port: u16) -> Result<bool> {
        let tables = self.enter(|| -> io::Result<String> {
            let v4 = fs::read_to_string("/proc/thread-self/net/tcp")?;
            let v6 = fs::read_to_string("/proc/thread-self/net/tcp6")?;
            Ok(v4 + &v6)
        })?;
        // "sl: local:PORT remote:PORT STATE", in hexadecimal; 0A is LISTEN
        let port = format!(":{port:04X}");
        Ok(tables.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some("0A")
        }))
    }

    /// Connects from exactly `source`; port 0 leaves the port to the kernel.
    pub fn connect_from(&self, source: SocketAddr, target: SocketAddr) -> io::Result<TcpStream> {
        self.connect_within(source, target, PATIENCE)
    }

    /// The same with a deadline of the caller's, for connects that are meant to fail.
    pub fn connect_within(
        &self,
        source: SocketAddr,
        target: SocketAddr,
        deadline: Duration,
    ) -> io::Result<TcpStream> {
        self.connect_by(Protocol::TCP, source, target, deadline)
    }

    /// The same with Multipath TCP, as far as the other side has it too.
    pub fn connect_multipath(
        &self,
        source: SocketAddr,
        target: SocketAddr,
    ) -> io::Result<TcpStream> {
        self.connect_by(Protocol::MPTCP, source, target, PATIENCE)
    }

    fn connect_by(
        &self,
        protocol: Protocol,
        source: SocketAddr,
        target: SocketAddr,
        deadline: Duration,
    ) -> io::Result<TcpStream> {
        let stream = self.enter(|| -> io::Result<TcpStream> {
            let socket = stream_socket(protocol, target)?;
            socket.bind(&source.into())?;
            socket.connect_timeout(&target.into(), deadline)?;
            Ok(socket.into())
        })?;
        patient(&stream)?;
        Ok(stream)
    }

    fn place(&self, command: &mut Command) {
        let fd = Arc::clone(&self.fd);
        // SAFETY: between fork and exec only two system calls run; nothing allocates or locks.
        unsafe {
            command.pre_exec(move || {
                join(fd.as_fd())?;
                set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(())
            });
        }
    }
}

/// A socket for `addr`'s family that may take a port in TIME_WAIT.
pub(super) fn tcp_socket(addr: SocketAddr) -> io::Result<Socket> {
    stream_socket(Protocol::TCP, addr)
}

/// The same of another protocol with streams.
pub(super) fn stream_socket(protocol: Protocol, addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(protocol))?;
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// Nothing that a test does with a connection may wait for ever.
pub(super) fn patient(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

fn join(netns: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(
        netns,
        Some(LinkNameSpaceType::Network),
    )?)
}
