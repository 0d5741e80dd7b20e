//! The daemon under test, as a command line.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::process::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::Lab;
use super::addr::{APP_PORT, BALANCER, HOST, LOOPBACK, TRUEPEER_PORT};
use super::netns::Netns;
use super::poll;
use super::proc::Proc;

/// Of a time namespace, in seconds.
const AHEAD: &str = "100000000";

/// What a command printed, and its exit code.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub text: String,
}

impl Said {
    /// Fails unless the exit code is `code` and the text contains each of `parts`.
    pub fn expect(&self, code: i32, parts: &[&str]) -> Result<()> {
        ensure!(
            self.code == Some(code),
            "exit code {:?}, not {code}: {}",
            self.code,
            self.text
        );
        for part in parts {
            ensure!(self.text.contains(part), "no \"{part}\" in: {}", self.text);
        }
        Ok(())
    }
}

impl Lab {
    /// A truepeer on both of the host's addresses, for the app on loopback, for the balancer only.
    pub fn truepeer(&self) -> Truepeer {
        Truepeer {
            host: self.host.clone(),
            instance: self.instance().to_owned(),
            listen: HOST.both(TRUEPEER_PORT).to_vec(),
            targets: targets(LOOPBACK.both(APP_PORT)),
            allow: vec![BALANCER.v4.to_string(), BALANCER.v6.to_string()],
            more: Vec::new(),
            capabilities: None,
            mounts: None,
            in_time_namespace: false,
            orphan_timeout: "0s",
            service_manager: None,
            open_files: None,
        }
    }

    /// `truepeer allow …` for this lab's instance.
    pub fn allow(&self, args: &[&str]) -> Result<Said> {
        let mut all = vec!["allow"];
        all.extend(args);
        all.extend(["--instance", self.instance()]);
        run(&self.host, command(all)?)
    }

    /// `truepeer` with any arguments at all, by a user who is in no other group than this.
    pub fn truepeer_by_group(&self, group: u32, args: &[&str]) -> Result<Said> {
        const NOBODY: u32 = 65_534;
        // Where the tests are, others may not get to.
        let place = TempDir::new()?;
        fs::set_permissions(&place, Permissions::from_mode(0o755))?;
        let binary = place.path().join("truepeer");
        fs::copy(command::<&str>([])?.get_program(), &binary)?;
        let mut setpriv = Command::new("setpriv");
        setpriv.arg(format!("--reuid={NOBODY}"));
        setpriv
            .arg(format!("--regid={group}"))
            .arg("--clear-groups");
        setpriv.arg(binary).args(args);
        run(&self.host, setpriv)
    }

    /// What `truepeer VERB --json` prints of this lab's instance.
    pub fn shown(&self, verb: &str) -> Result<Value> {
        let command = command([verb, "--json", "--instance", self.instance()])?;
        let said = run(&self.host, command)?;
        said.expect(0, &[])?;
        Ok(serde_json::from_str(&said.text)?)
    }

    /// `truepeer VERB` of this lab's instance, with nobody who reads what it prints; its errors.
    pub fn unread(&self, verb: &str) -> Result<Said> {
        let (_, output) = std::io::pipe()?;
        let mut command = command([verb, "--instance", self.instance()])?;
        let ended = self.host.enter(|| command.stdout(output).output())?;
        Ok(Said {
            code: ended.status.code(),
            text: String::from_utf8(ended.stderr)?,
        })
    }

    /// What the one service has counted.
    pub fn counts(&self) -> Result<Value> {
        let mut status = self.shown("status")?;
        Ok(status["services"][0]["connections"].take())
    }

    /// How many have ended for this reason.
    pub fn ended_as(&self, reason: &str) -> Result<u64> {
        let ended = self.counts()?["ended"].take();
        Ok(ended[reason].as_u64().unwrap_or_default())
    }

    /// Waits until its connections have ended like this, and no others have.
    pub fn wait_ended(&self, expected: &Value) -> Result<()> {
        let mut last = Value::Null;
        poll::until("the counts of how connections ended", || {
            last = self.counts()?["ended"].take();
            Ok((last == *expected).then_some(()))
        })
        .with_context(|| format!("{last:#} where {expected:#} should be"))
    }

    /// `truepeer run` with any arguments at all, once it serves.
    pub fn truepeer_daemon(&self, args: &[&str]) -> Result<Proc> {
        start(&self.host, command(args)?)
    }

    /// `truepeer` with any arguments at all, to its end.
    pub fn truepeer_raw(&self, args: &[&str]) -> Result<Said> {
        run(&self.host, command(args)?)
    }

    /// `truepeer` with any arguments at all, in mounts of its own, to which nothing is pinned.
    pub fn truepeer_by_another_bpffs(&self, args: &[&str]) -> Result<Said> {
        let truepeer = command(args)?;
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c"]);
        unshare.arg("mount -t bpf bpf /sys/fs/bpf && exec \"$0\" \"$@\"");
        unshare
            .arg(truepeer.get_program())
            .args(truepeer.get_args());
        run(&self.host, unshare)
    }

    /// `truepeer deny` with these arguments, which says all of `expected`.
    pub fn deny(&self, args: &[&str], expected: &[&str]) -> Result<()> {
        let all = [&["deny"], args, &["--instance", self.instance()]].concat();
        self.truepeer_raw(&all)?.expect(0, expected)
    }
}

/// A `truepeer run` that hasn't started yet.
#[derive(Clone)]
pub struct Truepeer {
    host: Netns,
    instance: String,
    listen: Vec<SocketAddr>,
    targets: Vec<(&'static str, SocketAddr)>,
    allow: Vec<String>,
    more: Vec<OsString>,
    capabilities: Option<Vec<String>>,
    /// What a shell changes about its own mounts first.
    mounts: Option<&'static str>,
    in_time_namespace: bool,
    orphan_timeout: &'static str,
    service_manager: Option<PathBuf>,
    open_files: Option<u64>,
}

impl Truepeer {
    /// Part of a name that the lab still cleans up: `suffix` goes behind the lab's instance.
    pub fn instance_suffix(mut self, suffix: &str) -> Self {
        self.instance.push_str(suffix);
        self
    }

    pub fn listen(mut self, addrs: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.listen = addrs.into_iter().collect();
        self
    }

    /// No target unless [`Self::args`] has one.
    pub fn no_targets(mut self) -> Self {
        self.targets.clear();
        self
    }

    /// The targets that a config for an app bound to `bind` would name: loopback for a wildcard.
    pub fn targets_for(mut self, bind: SocketAddr) -> Self {
        let mut pair = LOOPBACK.both(bind.port());
        if !bind.ip().is_unspecified() {
            pair[usize::from(bind.is_ipv6())] = bind;
        }
        self.targets = targets(pair);
        self
    }

    /// Replaces the allowlist of the command line.
    pub fn allow<S: Into<String>>(mut self, entries: impl IntoIterator<Item = S>) -> Self {
        self.allow = entries.into_iter().map(Into::into).collect();
        self
    }

    /// All connections go through the daemon.
    pub fn by_daemon(self) -> Self {
        self.args(["--direct", "off"])
    }

    /// How long its keeper waits for another daemon after a kill: not at all, unless a test says so.
    /// Most tests kill their daemon at their end.
    pub fn orphan_timeout(mut self, time: &'static str) -> Self {
        self.orphan_timeout = time;
        self
    }

    /// It tells a service manager, at a socket of datagrams, how it is.
    pub fn tells(mut self, service_manager: &Path) -> Self {
        self.service_manager = Some(service_manager.to_owned());
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
        self.more.extend(args);
        self
    }

    /// Starts it and waits until it serves.
    pub fn start(&self) -> Result<Proc> {
        start(&self.host, self.command("run")?)
    }

    /// Starts it and waits for it to end.
    pub fn run_to_end(&self) -> Result<Said> {
        run(&self.host, self.command("run")?)
    }

    /// `truepeer check` with the same flags.
    pub fn check(&self) -> Result<Said> {
        run(&self.host, self.command("check")?)
    }

    /// Starts it as a root that has no capabilities but these, such as `CAP_NET_RAW`.
    pub fn capabilities<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.capabilities = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// Starts it as container runtimes do: with mounts of its own, /proc/sys read-only, and no TUN.
    pub fn in_container(mut self) -> Self {
        self.mounts = Some(
            "mount -o bind /dev/null /dev/net/tun \
             && mount -o bind /proc/sys /proc/sys \
             && mount -o remount,bind,ro /proc/sys",
        );
        self
    }

    /// Starts it where nothing can be pinned.
    pub fn with_read_only_bpffs(mut self) -> Self {
        self.mounts = Some(
            "mount -o bind /sys/fs/bpf /sys/fs/bpf \
             && mount -o remount,bind,ro /sys/fs/bpf",
        );
        self
    }

    /// Starts it with this limit of open files.
    pub fn open_files(mut self, most: u64) -> Self {
        self.open_files = Some(most);
        self
    }

    /// Starts it where the clocks that count from the boot are years ahead.
    pub fn in_time_namespace(mut self) -> Self {
        self.in_time_namespace = true;
        self
    }

    fn command(&self, verb: &str) -> Result<Command> {
        let mut plain = command(self.command_line(verb))?;
        if let Some(socket) = &self.service_manager {
            plain.env("NOTIFY_SOCKET", socket);
        }
        if self.in_time_namespace {
            let mut unshare = Command::new("unshare");
            unshare.args(["--time", "--monotonic", AHEAD, "--boottime", AHEAD]);
            unshare.arg(plain.get_program()).args(plain.get_args());
            return Ok(unshare);
        }
        if let Some(mounts) = self.mounts {
            let script = format!("{mounts} && exec \"$0\" \"$@\"");
            let mut unshare = Command::new("unshare");
            unshare.args(["--mount", "sh", "-c", &script]);
            unshare.arg(plain.get_program()).args(plain.get_args());
            return Ok(unshare);
        }
        if let Some(most) = self.open_files {
            let mut prlimit = Command::new("prlimit");
            prlimit.arg(format!("--nofile={most}:{most}"));
            prlimit.arg(plain.get_program()).args(plain.get_args());
            return Ok(prlimit);
        }
        let Some(capabilities) = &self.capabilities else {
            return Ok(plain);
        };
        let mut bounding = String::from("--bounding-set=-all");
        for name in capabilities {
            bounding += ",+";
            bounding += &name.trim_start_matches("CAP_").to_lowercase();
        }
        let mut setpriv = Command::new("setpriv");
        setpriv.args([&bounding, "--inh-caps=-all"]);
        setpriv.arg(plain.get_program()).args(plain.get_args());
        Ok(setpriv)
    }

    fn command_line(&self, verb: &str) -> Vec<OsString> {
        let mut line: Vec<OsString> = vec![verb.into()];
        let mut flag = |name: &str, value: String| line.extend([name.into(), value.into()]);
        flag("--instance", self.instance.clone());
        for addr in &self.listen {
            flag("--listen", addr.to_string());
        }
        for (name, addr) in &self.targets {
            flag(name, addr.to_string());
        }
        for entry in &self.allow {
            flag("--allow", entry.clone());
        }
        flag("--orphan-timeout", self.orphan_timeout.into());
        line.extend(self.more.iter().cloned());
        line
    }
}

/// The process that a daemon has started to outlive it.
pub fn keeper_of(daemon: &Proc) -> Result<Pid> {
    poll::until("a keeper", || {
        // The children of each thread: the one that has started it has ended.
        let mut keeper = None;
        for task in fs::read_dir(format!("/proc/{}/task", daemon.pid()))? {
            // A thread may end meanwhile.
            let children = fs::read_to_string(task?.path().join("children"));
            let children = children.unwrap_or_default();
            let found = children.split_whitespace().find(|pid| is_keeper(pid));
            keeper = keeper.or(found.map(str::parse).transpose()?);
        }
        Ok(keeper.and_then(Pid::from_raw))
    })
}

fn is_keeper(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "truepeer-keeper\n")
}

fn targets([v4, v6]: [SocketAddr; 2]) -> Vec<(&'static str, SocketAddr)> {
    vec![("--target4", v4), ("--target6", v6)]
}

fn start(netns: &Netns, command: Command) -> Result<Proc> {
    let proc = netns.spawn(command)?;
    proc.wait_line("ready")?;
    Ok(proc)
}

fn run(netns: &Netns, command: Command) -> Result<Said> {
    let mut proc = netns.spawn(command)?;
    let status = proc.wait_exit()?;
    Ok(Said {
        code: status.code(),
        text: proc.log().join("\n"),
    })
}

fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<Command> {
    let binary = env::var_os("TRUEPEER_BIN")
        .context("set TRUEPEER_BIN to the truepeer binary; `cargo xtask test` does that")?;
    let binary = PathBuf::from(binary);
    ensure!(
        binary.is_file(),
        "TRUEPEER_BIN is {}, and no such file exists; `cargo xtask build` makes it",
        binary.display()
    );
    let mut command = Command::new(binary);
    command.args(args);
    Ok(command)
}
