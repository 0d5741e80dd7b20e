//! Unmodified apps of other people.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::netns::Netns;
use super::proc::Proc;
use super::sender::start_nginx;

/// nginx over HTTP, which answers with the address that it sees: `$remote_addr:$remote_port`.
pub struct Nginx {
    _proc: Proc,
    _dir: TempDir,
}

impl Nginx {
    pub fn start(netns: &Netns, listen: SocketAddr) -> Result<Self> {
        let config = format!(
            "http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen {listen}{dual_stack};
        location / {{
            default_type text/plain;
            return 200 \"$remote_addr:$remote_port\\n\";
        }}
    }}
}}
",
            dual_stack = if listen.is_ipv6() {
                " ipv6only=off"
            } else {
                ""
            },
        );
        let (proc, dir) = start_nginx(netns, &config, listen.port())?;
        Ok(Self {
            _proc: proc,
            _dir: dir,
        })
    }
}

/// An OpenSSH server that lets root in with a key of its own.
pub struct Sshd {
    proc: Proc,
    dir: TempDir,
}

impl Sshd {
    /// `[::]` is both families, as in sshd's own default.
    pub fn start(netns: &Netns, listen: SocketAddr) -> Result<Self> {
        let dir = TempDir::new()?;
        let port = listen.port();
        let (address, family) = match listen.ip() {
            IpAddr::V6(ip) if ip.is_unspecified() => (String::new(), "any"),
            IpAddr::V6(_) => (format!("ListenAddress {listen}\n"), "inet6"),
            IpAddr::V4(_) => (format!("ListenAddress {listen}\n"), "inet"),
        };
        let at = |name: &str| dir.path().join(name);
        // sshd insists on this directory; normally its service unit makes it.
        fs::create_dir_all("/run/sshd")?;
        make_key(&at("host_key"))?;
        make_key(&at("user_key"))?;
        fs::write(
            at("sshd_config"),
            format!(
                "Port {port}
AddressFamily {family}
{address}HostKey {host_key}
AuthorizedKeysFile {user_key}.pub
PidFile none
UsePAM no
UseDNS no
StrictModes no
LogLevel VERBOSE
",
                host_key = at("host_key").display(),
                user_key = at("user_key").display(),
            ),
        )?;
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(at("sshd_config"));
        let mut proc = netns.spawn(command)?;
        netns.wait_listening(&mut proc, listen.port())?;
        Ok(Self { proc, dir })
    }

    /// The first line of its log that contains `needle`.
    pub fn wait_line(&self, needle: &str) -> Result<String> {
        self.proc.wait_line(needle)
    }

    /// Whether its log has a line with `needle` by now.
    pub fn has_said(&self, needle: &str) -> bool {
        self.proc.log().iter().any(|line| line.contains(needle))
    }

    /// Logs in over `target` from `source` and runs `remote`.
    pub fn login(
        &self,
        netns: &Netns,
        source: SocketAddr,
        target: SocketAddr,
        remote: &str,
    ) -> Result<String> {
        let mut command = ssh("root", source, target);
        command.arg("-i").arg(self.user_key()).arg(remote);
        let output = netns.output(command)?;
        let log = || self.proc.log().join("\n");
        ensure!(
            output.status.success(),
            "ssh failed: {}sshd said:\n{}",
            stderr(&output),
            log()
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// As somebody who tries names does.
    pub fn try_user(
        netns: &Netns,
        user: &str,
        source: SocketAddr,
        target: SocketAddr,
    ) -> Result<()> {
        let mut command = ssh(user, source, target);
        command.arg("true");
        let output = netns.output(command)?;
        ensure!(!output.status.success(), "{user} was let in");
        Ok(())
    }

    fn user_key(&self) -> PathBuf {
        self.dir.path().join("user_key")
    }
}

fn ssh(user: &str, source: SocketAddr, target: SocketAddr) -> Command {
    let mut command = Command::new("ssh");
    command.args(["-F", "none", "-o", "BatchMode=yes"]);
    command.args(["-o", "StrictHostKeyChecking=no"]);
    command.args(["-o", "UserKnownHostsFile=/dev/null"]);
    command.args(["-o", "ConnectTimeout=20"]);
    command.args(["-b", &source.ip().to_string()]);
    command.args(["-p", &target.port().to_string()]);
    command.arg(format!("{user}@{}", target.ip()));
    command
}

fn make_key(path: &Path) -> Result<()> {
    let output = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .output()
        .context("starting ssh-keygen")?;
    ensure!(output.status.success(), "ssh-keygen: {}", stderr(&output));
    Ok(())
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
