//! Servers of DNS that know a few records, log who asks, and have nothing outside a directory of their own.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::dns::Record;
use crate::lab::netns::Netns;
use crate::lab::proc::Proc;

pub type Start = fn(&Netns, SocketAddr, &[Record]) -> Result<NameServer>;

pub struct NameServer {
    proc: Proc,
    /// What it logs of a question by this client.
    line: fn(SocketAddr, &Record) -> String,
    _dir: TempDir,
}

impl NameServer {
    /// The same of any question that comes from there.
    pub fn wait_any_client(&self, client: IpAddr) -> Result<()> {
        self.proc.wait_line(&format!(" {client}#")).map(drop)
    }

    pub fn wait_client(&self, client: SocketAddr, record: &Record) -> Result<()> {
        self.proc.wait_line(&(self.line)(client, record)).map(drop)
    }
}

pub fn unbound(netns: &Netns, at: SocketAddr, records: &[Record]) -> Result<NameServer> {
    let dir = TempDir::new()?;
    let config = dir.path().join("unbound.conf");
    let lines = records.iter().map(|record| {
        let (name, data) = (record.name(), quoted(record));
        format!("  local-data: '{name} TXT {data}'\n")
    });
    let records: String = lines.collect();
    fs::write(&config, unbound_conf(dir.path(), at, &records))?;
    let mut command = Command::new("unbound");
    command.args(["-d", "-d", "-c"]).arg(&config);
    let proc = netns.spawn(command)?;
    proc.wait_line("start of service")?;
    Ok(NameServer {
        proc,
        // It names no port.
        line: |client, record| format!("{} {} TXT IN", client.ip(), record.name()),
        _dir: dir,
    })
}

fn unbound_conf(dir: &Path, at: SocketAddr, records: &str) -> String {
    format!(
        "server:
  interface: {ip}@{port}
  access-control: 0.0.0.0/0 allow
  access-control: ::/0 allow
  do-daemonize: no
  use-syslog: no
  logfile: \"\"
  log-queries: yes
  chroot: \"\"
  username: \"\"
  pidfile: \"\"
  directory: \"{dir}\"
  module-config: \"iterator\"
  edns-buffer-size: 4096
  max-udp-size: 4096
  local-zone: \"lab.\" static
{records}remote-control:
  control-enable: no
",
        ip = at.ip(),
        port = at.port(),
        dir = dir.display(),
    )
}

pub fn bind(netns: &Netns, at: SocketAddr, records: &[Record]) -> Result<NameServer> {
    let dir = TempDir::new()?;
    fs::write(dir.path().join("zone"), zone(records))?;
    serve(netns, at, dir)
}

/// With a zone that is signed, and the digest of its key, as a zone above it would have it.
pub fn bind_signed(
    netns: &Netns,
    at: SocketAddr,
    records: &[Record],
) -> Result<(NameServer, String)> {
    let dir = TempDir::new()?;
    fs::write(dir.path().join("plain"), zone(records))?;
    for line in [
        "dnssec-keygen -a RSASHA256 -b 2048 -f KSK lab",
        "dnssec-keygen -a RSASHA256 -b 2048 lab",
        "dnssec-signzone -S -o lab -f zone plain",
    ] {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().context("a program")?);
        let done = command.args(words).current_dir(dir.path()).output()?;
        ensure!(done.status.success(), "{line}: {done:?}");
    }
    let digest = fs::read_to_string(dir.path().join("dsset-lab."))?;
    Ok((serve(netns, at, dir)?, digest))
}

fn zone(records: &[Record]) -> String {
    let lines = records.iter().map(|record| {
        let (name, data) = (record.name(), quoted(record));
        format!("{name} 0 TXT {data}\n")
    });
    let mut zone =
        "lab. 0 SOA lab. lab. 1 1 1 1 1\nlab. 0 NS lab.\nlab. 0 A 192.0.2.1\n".to_owned();
    zone.extend(lines);
    zone
}

/// The zone in this directory.
fn serve(netns: &Netns, at: SocketAddr, dir: TempDir) -> Result<NameServer> {
    let config = dir.path().join("named.conf");
    fs::write(&config, named_conf(dir.path(), at))?;
    let mut command = Command::new("named");
    // In the foreground, with its log on standard error; one thread is enough.
    command.args(["-g", "-n", "1", "-c"]).arg(&config);
    let proc = netns.spawn(command)?;
    proc.wait_line("all zones loaded")?;
    Ok(NameServer {
        proc,
        line: |client, record| {
            let (ip, port, name) = (client.ip(), client.port(), record.name());
            let name = name.trim_end_matches('.');
            format!(" {ip}#{port} ({name}): query: {name} IN TXT ")
        },
        _dir: dir,
    })
}

/// Without rndc, the keys and the lists that Debian's has, and without other servers.
fn named_conf(dir: &Path, at: SocketAddr) -> String {
    let (other, own) = match at {
        SocketAddr::V4(_) => ("listen-on-v6", "listen-on"),
        SocketAddr::V6(_) => ("listen-on", "listen-on-v6"),
    };
    format!(
        "options {{
  directory \"{dir}\";
  managed-keys-directory \"{dir}\";
  bindkeys-file \"{dir}/none\";
  pid-file none;
  session-keyfile none;
  lock-file none;
  geoip-directory none;
  {own} port {port} {{ {ip}; }};
  {other} {{ none; }};
  interface-interval 0;
  allow-query {{ any; }};
  recursion no;
  dnssec-validation no;
  notify no;
  minimal-responses yes;
  querylog yes;
  edns-udp-size 4096;
  max-udp-size 4096;
}};
controls {{ }};
zone \"lab\" {{ type primary; file \"zone\"; }};
",
        ip = at.ip(),
        port = at.port(),
        dir = dir.display(),
    )
}

fn quoted(record: &Record) -> String {
    let strings = record.strings().into_iter();
    strings.map(|string| format!("\"{string}\" ")).collect()
}
