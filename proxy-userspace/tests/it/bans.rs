//! fail2ban's jail for sshd, with its actions and with ours: whom it bans is out, on either path.

use std::env;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path as FilePath;

use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;

use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, OTHER_CLIENT, Pair, TRUEPEER_PORT,
};
use crate::lab::fail2ban::Fail2ban;
use crate::lab::haproxy::HaProxy;
use crate::lab::netns::Netns;
use crate::lab::path::Path;
use crate::lab::poll;
use crate::lab::server::Sshd;
use crate::lab::stream::read_line;

/// What bans, and what shows an address that it has banned.
#[derive(Clone, Copy)]
enum Action {
    Nftables,
    Iptables,
    Truepeer,
}

macro_rules! rows {
    ($($name:ident: $action:ident;)*) => { $(
        mod $name {
            use super::{Action, Path, bans};
            use crate::lab::addr::Pair;

            #[test]
            fn direct_v4() -> anyhow::Result<()> {
                bans(Action::$action, Path::Direct, Pair::v4)
            }

            #[test]
            fn direct_v6() -> anyhow::Result<()> {
                bans(Action::$action, Path::Direct, Pair::v6)
            }

            #[test]
            fn daemon_v4() -> anyhow::Result<()> {
                bans(Action::$action, Path::Daemon, Pair::v4)
            }
        }
    )* };
}

rows! {
    by_nftables: Nftables;
    by_iptables: Iptables;
    by_truepeer: Truepeer;
}

impl Action {
    fn start(self, lab: &Lab, log: &FilePath) -> Result<Fail2ban> {
        let (name, definition) = match self {
            Self::Nftables => ("nftables", None),
            Self::Iptables => ("iptables", None),
            Self::Truepeer => ("truepeer", Some(of_the_documents(lab)?)),
        };
        Fail2ban::start(&lab.host, log, APP_PORT, name, definition.as_deref())
    }

    fn has_banned(self, lab: &Lab, address: &str) -> Result<bool> {
        let shown = match self {
            Self::Nftables => lab.host.run("nft list ruleset")?,
            Self::Iptables if address.contains(':') => lab.host.run("ip6tables -S")?,
            Self::Iptables => lab.host.run("iptables -S")?,
            Self::Truepeer => {
                let list = ["deny", "list", "--instance", lab.instance()];
                lab.truepeer_raw(&list)?.text
            }
        };
        Ok(shown.contains(address))
    }
}

/// The action that the operator's page shows, for this lab's instance.
fn of_the_documents(lab: &Lab) -> Result<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operating.md");
    let page = fs::read_to_string(page)?;
    let block = page
        .split("```")
        .find(|block| block.contains("[Definition]"));
    let block = block.and_then(|block| block.strip_prefix("text\n"));
    let binary = env::var("TRUEPEER_BIN")?;
    let command = format!("{binary} deny --instance {}", lab.instance());
    Ok(block
        .context("an action")?
        .replace("truepeer deny", &command))
}

fn bans(action: Action, path: Path, family: fn(Pair, u16) -> SocketAddr) -> Result<()> {
    let lab = Lab::new()?;
    let log = NamedTempFile::new()?;
    let sshd = Sshd::start(&lab.host, family(LOOPBACK, APP_PORT))?;
    let _truepeer = lab.truepeer().args(path.args()).start()?;
    let _balancer = HaProxy::start(&lab.edge, "send-proxy-v2", family(HOST, TRUEPEER_PORT))?;
    let fail2ban = action.start(&lab, log.path())?;
    let (client, other) = (family(CLIENT, 0), family(OTHER_CLIENT, 0));
    let mut open = greeted(&lab, client)?;
    open.write_all(b"SSH-2.0-open\r\n")?;
    let received = poll::until("the app to take the first words", || {
        received(&lab.host, &open)
    })?;

    Sshd::try_user(
        &lab.client,
        "nobody-here",
        client,
        family(FRONT, FRONT_PORT),
    )?;
    let address = client.ip().to_string();
    let tried = sshd.wait_line("Invalid user nobody-here")?;
    ensure!(tried.contains(&address), "{tried}");
    // As syslog writes it.
    writeln!(&log, "host sshd[1]: {tried}")?;
    fail2ban.wait_ban(&address, || {
        Ok(action.has_banned(&lab, &address)?.then_some(()))
    })?;
    open.write_all(b"more")?;
    let new = lab.visitor(client, FRONT_PORT)?;
    let allowed = greeted(&lab, other)?;
    sshd.wait_line(&connected(allowed.local_addr()?))?;
    ensure!(
        !sshd.has_said(&connected(new.local_addr()?)),
        "the banned one got to the app"
    );
    match action {
        // Its packets go nowhere.
        Action::Nftables | Action::Iptables => {
            assert_eq!(self::received(&lab.host, &open)?, Some(received));
        }
        // Behind what it had not read yet.
        Action::Truepeer => {
            let end = io::copy(&mut open, &mut io::sink()).map_err(|error| error.kind());
            ensure!(end != Err(ErrorKind::WouldBlock), "it is still open");
        }
    }
    Ok(())
}

/// A connection by the balancer that the app has spoken on.
fn greeted(lab: &Lab, client: SocketAddr) -> Result<TcpStream> {
    let mut stream = lab.visitor(client, FRONT_PORT)?;
    let line = read_line(&mut stream)?;
    ensure!(line.starts_with("SSH-"), "{line}");
    Ok(stream)
}

/// What sshd logs of it.
fn connected(client: SocketAddr) -> String {
    format!("Connection from {} port {}", client.ip(), client.port())
}

/// How many bytes the app's host has taken of a client's; none as long as it is none.
fn received(host: &Netns, of: &TcpStream) -> Result<Option<u64>> {
    let port = of.local_addr()?.port();
    let shown = host.run(&format!("ss -tinH dport = :{port}"))?;
    let counted = shown.split_once("bytes_received:");
    let counted = counted.and_then(|(_, rest)| rest.split_whitespace().next());
    Ok(counted.map(str::parse).transpose()?)
}
