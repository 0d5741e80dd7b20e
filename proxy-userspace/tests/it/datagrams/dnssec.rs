//! A zone with signatures behind dnsdist, and a resolver that believes nothing without them: one byte that is another
//! one, and it has no answer.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::dns::{self, Record};
use super::name_servers;
use super::rows;
use super::site::Plan;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, TRUEPEER_PORT};
use crate::lab::datagram;
use crate::lab::dnsdist::Dnsdist;
use crate::lab::leaks::Watched;
use crate::lab::netns::Netns;
use crate::lab::proc::Proc;

rows! {
    a_resolver_that_validates;
}

/// Of answers without their signatures, each of which has 256 bytes and more.
const SIZES: [u16; 3] = [100, 1400, 2800];
/// Of the resolver.
const PORT: u16 = 5300;

fn a_resolver_that_validates(plan: Plan<'_>) -> Result<()> {
    let of = plan.family;
    let lab = Watched::new()?;
    let records = SIZES.map(Record::answered_by);
    let app = of(LOOPBACK, APP_PORT);
    let (server, digest) = name_servers::bind_signed(&lab.host, app, &records)?;
    let truepeer = lab.truepeer().targets_for(app).args(plan.path.args());
    let _truepeer = truepeer.args(plan.framing.args()).start()?;
    let name = records[0].name();
    let _dnsdist = Dnsdist::start_udp(&lab.edge, of(HOST, TRUEPEER_PORT), &name)?;
    let resolver = Resolver::start(&lab.client, plan.family, &digest)?;
    for record in &records {
        let answer = resolver.ask(&record.query_for_signatures())?;
        is_signed(&answer, record)?;
    }
    server.wait_any_client(of(CLIENT, 0).ip())?;
    came_by(&lab, plan)?;
    drop(resolver);
    // It has validated: by another zone's key it finds all of this one forged.
    let resolver = Resolver::start(&lab.client, plan.family, &of_another_key(&digest)?)?;
    let answer = resolver.ask(&records[1].query_for_signatures())?;
    let code = answer.get(3).context("an answer")? & 0xf;
    ensure!(code == SERVER_FAILURE, "by another key the code is {code}");
    Ok(())
}

const SERVER_FAILURE: u8 = 2;

/// Valid, as the resolver says, and longer than it would be without signatures.
fn is_signed(answer: &[u8], record: &Record) -> Result<()> {
    /// AD, in the fourth byte.
    const VALIDATED: u8 = 0x20;
    /// The type of the record, a pointer to the name before it, IN behind it.
    const SIGNATURE: [u8; 6] = [0xc0, 12, 0, 46, 0, 1];
    const LENGTH: usize = 256;
    let flags = *answer.get(3).context("flags")?;
    ensure!(flags & VALIDATED != 0, "not validated: {flags:#04x}");
    let has = |part: &[u8]| answer.windows(part.len()).any(|at| at == part);
    ensure!(has(&record.data()), "the record isn't in it");
    ensure!(has(&SIGNATURE), "no signature is in it");
    let length = answer.len();
    ensure!(length > record.answer_length() + LENGTH, "{length} bytes");
    Ok(())
}

/// The resolver's own flows, and with them all that it has heard.
fn came_by(lab: &Watched, plan: Plan<'_>) -> Result<()> {
    let flows = dns::flows(lab, plan)?;
    let longest = SIZES.iter().max().copied().map(u64::from);
    let moved = flows.iter().filter_map(|one| one["down"].as_u64()).max();
    ensure!(moved > longest, "at most {moved:?} bytes: {flows:#?}");
    Ok(())
}

/// As long, and as wrong as it gets.
fn of_another_key(digest: &str) -> Result<String> {
    let digest = digest.trim_end();
    let last = digest.chars().last().context("a digest")?;
    let other = if last == '0' { '1' } else { '0' };
    Ok(format!("{}{other}\n", &digest[..digest.len() - 1]))
}

/// unbound, at an address of the clients', which asks the balancer.
struct Resolver {
    netns: Netns,
    _proc: Proc,
    _dir: TempDir,
}

impl Resolver {
    fn start(
        netns: &Netns,
        of: fn(crate::lab::addr::Pair, u16) -> SocketAddr,
        digest: &str,
    ) -> Result<Self> {
        let dir = TempDir::new()?;
        fs::write(dir.path().join("anchor"), digest)?;
        let config = dir.path().join("unbound.conf");
        fs::write(&config, conf(&dir, of(CLIENT, 0), of(FRONT, FRONT_PORT)))?;
        let mut command = Command::new("unbound");
        command.args(["-d", "-d", "-c"]).arg(&config);
        let proc = netns.spawn(command)?;
        proc.wait_line("start of service")?;
        Ok(Self {
            netns: netns.clone(),
            _proc: proc,
            _dir: dir,
        })
    }

    fn ask(&self, query: &[u8]) -> Result<Vec<u8>> {
        let socket = datagram::socket(&self.netns, LOOPBACK.v4(0))?;
        socket.send_to(query, LOOPBACK.v4(PORT))?;
        Ok(datagram::receive(&socket)?.0)
    }
}

/// By UDP alone.
fn conf(dir: &TempDir, from: SocketAddr, to: SocketAddr) -> String {
    format!(
        "server:
  interface: 127.0.0.1@{PORT}
  outgoing-interface: {from}
  do-tcp: no
  do-daemonize: no
  use-syslog: no
  logfile: \"\"
  chroot: \"\"
  username: \"\"
  pidfile: \"\"
  directory: \"{dir}\"
  module-config: \"validator iterator\"
  trust-anchor-file: \"anchor\"
  edns-buffer-size: 4096
  max-udp-size: 4096
forward-zone:
  name: \"lab.\"
  forward-addr: {to}@{port}
remote-control:
  control-enable: no
",
        from = from.ip(),
        dir = dir.path().display(),
        to = to.ip(),
        port = to.port(),
    )
}
