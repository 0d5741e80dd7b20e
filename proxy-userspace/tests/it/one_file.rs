//! Five services of one file, each before a server of another kind, behind one HAProxy and one dnsdist.

use std::io::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};

use crate::datagrams::dns::{Record, asked};
use crate::datagrams::name_servers;
use crate::lab::addr::{CLIENT, FRONT, HOST, LOOPBACK};
use crate::lab::app::Echo;
use crate::lab::dnsdist::Dnsdist;
use crate::lab::haproxy::{HaProxy, Options};
use crate::lab::leaks::Leaks;
use crate::lab::mariadb::MariaDb;
use crate::lab::path::Path;
use crate::lab::postfix::Postfix;
use crate::lab::served::{Served, Site, WEB};
use crate::lab::server::Nginx;
use crate::lab::stream::{read_greeting, read_line, round_trip};
use crate::reload::by_both_paths;

const fn tcp(name: &'static str, port: u16, target_port: u16) -> Served {
    Served {
        name,
        port,
        target_port,
        ..WEB
    }
}

const SITE: Served = tcp("site", 80, 8080);
const MAIL: Served = tcp("mail", 25, 2525);
const DATABASE: Served = tcp("database", 3306, 13306);
const GAME: Served = tcp("game", 25_565, 25_566);
const NAMES: Served = Served {
    protocol: "udp",
    ..tcp("names", 53, 5353)
};

by_both_paths! {
    five_servers;
}

fn five_servers(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let record = Record::answered_by(512);
    let at = |service: Served| LOOPBACK.v4(service.target_port);
    let _site = Nginx::start(&lab.host, at(SITE))?;
    let mail = Postfix::start(&lab.host, at(MAIL))?;
    let _database = MariaDb::start(&lab.host, at(DATABASE))?;
    let _game = Echo::greeting(&lab.host, at(GAME))?;
    let names = name_servers::unbound(&lab.host, at(NAMES), std::slice::from_ref(&record))?;
    let _truepeer = site.start(&[SITE, MAIL, DATABASE, GAME, NAMES])?;
    let leaks = Leaks::watch(&lab.edge)?;
    let sections = [SITE, MAIL, DATABASE, GAME].map(section).concat();
    let options = Options {
        more: &sections,
        ..Options::tcp("send-proxy-v2")
    };
    let _haproxy = HaProxy::with(&lab.edge, &options, HOST.v4(SITE.port))?;
    let (port, to) = (NAMES.port, HOST.v4(NAMES.port));
    let _dnsdist = Dnsdist::start_udp_at(&lab.edge, port, to, &record.name())?;

    let front = |service: Served| FRONT.v4(service.port);
    let client = CLIENT.v4(41_000);
    let seen = lab.client.run(&format!(
        "curl -sS --max-time 20 --interface {} --local-port {} http://{}/",
        client.ip(),
        client.port(),
        front(SITE)
    ))?;
    ensure!(seen.trim_end() == client.to_string(), "nginx sees {seen}");

    let client = CLIENT.v4(41_001);
    let mut stream = lab.client.connect_from(client, front(MAIL))?;
    let greeting = read_line(&mut stream)?;
    ensure!(greeting.starts_with("220 "), "{greeting}");
    stream.write_all(b"QUIT\r\n")?;
    let (ip, port) = (client.ip(), client.port());
    mail.wait_line(&format!(" connect from unknown[{ip}]:{port}"))?;

    let seen = MariaDb::ask(&lab.client, front(DATABASE))?;
    let seen: SocketAddr = seen
        .parse()
        .with_context(|| format!("MariaDB sees {seen}"))?;
    ensure!(seen.ip() == CLIENT.v4(0).ip(), "MariaDB sees {seen}");

    let client = CLIENT.v4(41_002);
    let mut stream = lab.client.connect_from(client, front(GAME))?;
    let seen = read_greeting(&mut stream)?;
    ensure!(seen == client, "the game sees {seen}");
    round_trip(&mut stream, b"a move")?;

    let client = CLIENT.v4(41_003);
    asked(lab, client, front(NAMES), &record)?;
    names.wait_client(client, &record)?;
    leaks.saw_none()?;
    mail.stop()
}

/// As HAProxy's own configuration has it.
fn section(service: Served) -> String {
    let Served { name, port, .. } = service;
    let (bind, server) = (FRONT.v4(port), HOST.v4(port));
    format!("listen {name}\n    bind {bind}\n    server app {server} send-proxy-v2\n")
}
