//! A daemon with a file of services, which changes while it runs.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::addr::{BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, Pair};
use super::app::Echo;
use super::datagram::{self, Kind};
use super::header::Version;
use super::path::Path;
use super::proc::Proc;
use super::stream::{read_greeting, round_trip};
use super::{Lab, poll};

/// A service of a file, with an application for each family.
#[derive(Clone, Copy)]
pub struct Served {
    pub name: &'static str,
    pub protocol: &'static str,
    /// Where balancers connect to.
    pub port: u16,
    pub target: Pair,
    pub target_port: u16,
    /// More of its keys, a line each.
    pub keys: &'static str,
}

pub const SSH: Served = Served {
    name: "ssh",
    protocol: "tcp",
    port: 7000,
    target: LOOPBACK,
    target_port: 8080,
    keys: "",
};
pub const WEB: Served = Served {
    name: "web",
    // What is below 1024 needs a capability.
    port: 443,
    target_port: 8081,
    ..SSH
};
pub const GAME: Served = Served {
    name: "game",
    protocol: "udp",
    ..SSH
};

impl Served {
    pub fn echoes(self, lab: &Lab) -> Result<[Echo; 2]> {
        let [v4, v6] = self.target.both(self.target_port);
        Ok([
            Echo::greeting(&lab.host, v4)?,
            Echo::greeting(&lab.host, v6)?,
        ])
    }

    pub fn players(self, lab: &Lab) -> Result<[datagram::Echo; 2]> {
        let [v4, v6] = self.target.both(self.target_port);
        let listen = |at| datagram::Echo::listen(&lab.host, at, Kind::Unconnected);
        Ok([listen(v4)?, listen(v6)?])
    }
}

/// A daemon with a file that changes.
pub struct Site {
    pub lab: Lab,
    _directory: TempDir,
    pub file: PathBuf,
    path: Path,
}

impl Site {
    pub fn new(path: Path) -> Result<Self> {
        let directory = TempDir::new()?;
        Ok(Self {
            lab: Lab::new()?,
            file: directory.path().join("truepeer.toml"),
            _directory: directory,
            path,
        })
    }

    pub fn write(&self, instance_keys: &str, services: &[Served]) -> Result<()> {
        let [_, direct] = self.path.args() else {
            unreachable!("a flag and its value")
        };
        let (instance, [v4, v6]) = (self.lab.instance(), [BALANCER.v4, BALANCER.v6]);
        let mut text = format!(
            "instance = \"{instance}\"\norphan_timeout = \"0s\"\ndirect = \"{direct}\"\n{instance_keys}\n\
             [defaults]\nallow = [\"{v4}\", \"{v6}\"]\n"
        );
        for service in services {
            let Served {
                name,
                protocol,
                keys,
                ..
            } = service;
            let [listen4, listen6] = HOST.both(service.port);
            let [target4, target6] = service.target.both(service.target_port);
            text += &format!(
                "[[service]]\nname = \"{name}\"\nprotocol = \"{protocol}\"\nlisten = [\"{listen4}\", \"{listen6}\"]\n\
                 target4 = \"{target4}\"\ntarget6 = \"{target6}\"\n{keys}\n"
            );
        }
        Ok(fs::write(&self.file, text)?)
    }

    pub fn start(&self, services: &[Served]) -> Result<Proc> {
        self.write("", services)?;
        self.run(&[])
    }

    /// By the file as it is.
    pub fn run(&self, flags: &[&str]) -> Result<Proc> {
        let file = self.file.to_str().context("UTF-8")?;
        self.lab
            .truepeer_daemon(&[&["run", "-c", file], flags].concat())
    }

    pub fn take_over(&self) -> Result<Proc> {
        self.run(&["--take-over"])
    }

    /// What has changed, as it is told.
    pub fn reload(&self, services: &[Served], says: &[&str]) -> Result<()> {
        self.write("", services)?;
        self.asks(&[], 0, says)
    }

    pub fn asks(&self, flags: &[&str], code: i32, says: &[&str]) -> Result<()> {
        let ask = ["reload", "--instance", self.lab.instance()];
        self.lab
            .truepeer_raw(&[&ask[..], flags].concat())?
            .expect(code, says)
    }

    /// Any other command.
    pub fn asked(&self, words: &[&str], says: &str) -> Result<()> {
        let all = [words, &["--instance", self.lab.instance()]].concat();
        self.lab.truepeer_raw(&all)?.expect(0, &[says])
    }

    /// A connection to a service that goes on.
    pub fn talk(&self, source: SocketAddr, service: Served) -> Result<TcpStream> {
        let to = HOST.like(source, service.port);
        let mut balancer = self.lab.edge.connect_from(source, to)?;
        let client = CLIENT.like(source, balancer.local_addr()?.port());
        let header = Version::V2.header(client, FRONT.like(client, FRONT_PORT));
        balancer.write_all(&header)?;
        ensure!(read_greeting(&mut balancer)? == client, "another client");
        Ok(balancer)
    }

    pub fn talks(&self, service: Served) -> Result<[TcpStream; 2]> {
        let [v4, v6] = BALANCER.both(0);
        Ok([self.talk(v4, service)?, self.talk(v6, service)?])
    }

    /// The names of the services of what is open.
    pub fn open(&self) -> Result<Vec<String>> {
        let shown = self.lab.shown("connections")?;
        let all = shown.as_array().context("an array")?;
        Ok(all
            .iter()
            .map(|one| one["service"].as_str().unwrap_or_default().to_owned())
            .collect())
    }

    /// Until nothing is known of a service that isn't in the file any more.
    pub fn wait_forgotten(&self, service: Served) -> Result<()> {
        poll::until("the service to be forgotten", || {
            let listed = self.lab.allow(&["list", "--service", service.name])?;
            let gone = listed.expect(1, &[&format!("has no service {}", service.name)]);
            Ok(gone.is_ok().then_some(()))
        })
    }
}

pub fn go_on(talks: &mut [TcpStream]) -> Result<()> {
    talks
        .iter_mut()
        .try_for_each(|talk| round_trip(talk, b"still there"))
}

pub fn player(lab: &Lab, source: SocketAddr, service: Served) -> Result<UdpSocket> {
    let balancer = datagram::socket(&lab.edge, source)?;
    balancer.connect(HOST.like(source, service.port))?;
    Ok(balancer)
}

pub fn plays(balancer: &UdpSocket, game: &datagram::Echo) -> Result<()> {
    let client = CLIENT.like(balancer.local_addr()?, 1000);
    let header = datagram::v2(client, FRONT.like(client, FRONT_PORT), &[]);
    balancer.send(&[&header[..], b"hello"].concat())?;
    let (seen, words) = game.next()?;
    ensure!(seen == client && words == b"hello", "the game sees {seen}");
    let (answer, _) = datagram::receive(balancer)?;
    ensure!(answer == b"hello", "an answer of {} bytes", answer.len());
    Ok(())
}
