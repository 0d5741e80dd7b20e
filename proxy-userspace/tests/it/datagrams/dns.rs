//! dnsdist as the balancer, unbound as the app: its log shows the client, and answers of all sizes that DNS
//! has over UDP arrive.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::rows;
use super::site::Plan;
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, TRUEPEER_PORT};
use crate::lab::datagram;
use crate::lab::dnsdist::Dnsdist;
use crate::lab::leaks::Leaks;
use crate::lab::netns::Netns;
use crate::lab::proc::Proc;

rows! {
    dnsdist_before_unbound;
}

/// Strings of a TXT record, of 255 bytes each, in answers of 20 bytes to 3,900.
const SIZES: [usize; 5] = [0, 1, 5, 6, 15];

fn dnsdist_before_unbound(plan: Plan<'_>) -> Result<()> {
    let of = plan.family;
    let lab = Lab::new()?;
    let unbound = Unbound::start(&lab.host, of(LOOPBACK, APP_PORT))?;
    let _truepeer = lab
        .truepeer()
        .targets_for(of(LOOPBACK, APP_PORT))
        .args(plan.path.args())
        .args(plan.framing.args())
        .start()?;
    let leaks = Leaks::watch(&lab.edge)?;
    let dnsdist = Dnsdist::start_udp(&lab.edge, of(HOST, TRUEPEER_PORT))?;
    for (port, strings) in (20_400..).zip(SIZES) {
        let client = datagram::socket(&lab.client, of(CLIENT, port))?;
        client.send_to(&query(strings), of(FRONT, FRONT_PORT))?;
        let (answer, _) = datagram::receive(&client)
            .with_context(|| format!("the answer with {strings} strings"))?;
        let text = vec![b'x'; strings * 255];
        let got: Vec<u8> = answer.into_iter().filter(|byte| *byte == b'x').collect();
        ensure!(got.len() >= text.len(), "{} bytes of text", got.len());
        unbound.wait_client(of(CLIENT, port), strings)?;
    }
    drop(dnsdist);
    leaks.saw_none()
}

/// A TXT record of so many strings, with room for 4,096 bytes (EDNS).
fn query(strings: usize) -> Vec<u8> {
    let name = format!("t{strings}");
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    query.push(u8::try_from(name.len()).expect("a short name"));
    query.extend(name.as_bytes());
    query.extend(b"\x03lab\0\0\x10\0\x01");
    // The root, OPT, 4,096 bytes, nothing else.
    query.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
    query
}

struct Unbound {
    proc: Proc,
    _dir: TempDir,
}

impl Unbound {
    fn start(netns: &Netns, at: SocketAddr) -> Result<Self> {
        let dir = TempDir::new()?;
        let config = dir.path().join("unbound.conf");
        let string = format!("\"{}\"", "x".repeat(255));
        let records = SIZES.map(|strings| {
            let texts = match strings {
                0 => "\"none\"".to_owned(),
                _ => vec![&*string; strings].join(" "),
            };
            format!("  local-data: 't{strings}.lab. TXT {texts}'\n")
        });
        let (ip, port) = (at.ip(), at.port());
        fs::write(
            &config,
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
  directory: \"{}\"
  module-config: \"iterator\"
  edns-buffer-size: 4096
  max-udp-size: 4096
  local-zone: \"lab.\" static
{}remote-control:
  control-enable: no
",
                dir.path().display(),
                records.concat()
            ),
        )?;
        let mut command = Command::new("unbound");
        command.args(["-d", "-d", "-c"]).arg(&config);
        let proc = netns.spawn(command)?;
        proc.wait_line("start of service")?;
        Ok(Self { proc, _dir: dir })
    }

    /// Its log names no port.
    fn wait_client(&self, client: SocketAddr, strings: usize) -> Result<()> {
        let asked = format!("{} t{strings}.lab. TXT IN", client.ip());
        self.proc.wait_line(&asked).map(drop)
    }
}
