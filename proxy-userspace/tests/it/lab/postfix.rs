//! A mail server that greets first and logs whom it sees, with all that it keeps in a directory of its own.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use super::netns::Netns;
use super::proc::Proc;

pub struct Postfix {
    proc: Proc,
    _dir: TempDir,
}

impl Postfix {
    pub fn start(netns: &Netns, listen: SocketAddr) -> Result<Self> {
        let dir = TempDir::new()?;
        // Its own user has to get there.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let [conf, queue, data] = ["conf", "queue", "data"].map(|name| dir.path().join(name));
        for directory in [&conf, &queue, &data] {
            fs::create_dir(directory)?;
        }
        let owned = Command::new("chown").arg("postfix").arg(&data).status()?;
        ensure!(owned.success(), "chown: {owned}");
        fs::write(
            conf.join("main.cf"),
            format!(
                "compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
daemon_directory = /usr/lib/postfix/sbin
myhostname = lab.test
mynetworks =
alias_maps =
inet_interfaces = {ip}
smtpd_client_port_logging = yes
smtpd_peername_lookup = no
smtpd_relay_restrictions = reject
maillog_file = /dev/stdout
",
                queue = queue.display(),
                data = data.display(),
                ip = listen.ip(),
            ),
        )?;
        fs::write(
            conf.join("master.cf"),
            format!(
                "postlog unix-dgram n - n - 1 postlogd
{listen} inet n - n - - smtpd
anvil unix - - n - 1 anvil
proxymap unix - - n - - proxymap
rewrite unix - - n - - trivial-rewrite
"
            ),
        )?;
        let mut check = Command::new("postfix");
        check.arg("-c").arg(&conf).arg("check");
        let checked = netns.output(check)?;
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        ensure!(checked.status.success(), "postfix check: {said}");
        let mut command = Command::new("/usr/lib/postfix/sbin/master");
        command.arg("-d").arg("-c").arg(&conf);
        let mut proc = netns.spawn(command)?;
        netns.wait_listening(&mut proc, listen.port())?;
        Ok(Self { proc, _dir: dir })
    }

    /// The first line of its log that contains `needle`.
    pub fn wait_line(&self, needle: &str) -> Result<String> {
        self.proc.wait_line(needle)
    }

    /// With all the processes that it has started.
    pub fn stop(mut self) -> Result<()> {
        self.proc.signal(Signal::TERM)?;
        self.proc.wait_end().context("postfix")?;
        Ok(())
    }
}
