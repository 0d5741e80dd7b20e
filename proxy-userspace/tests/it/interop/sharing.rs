//! What shares a connection or a segment, and what doesn't.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::Shutdown;

use anyhow::{Context, Result, bail, ensure};
use truepeer::header::{Parse, Policy, parse};

use super::cell::{header, http_peer};
use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, OTHER_CLIENT, TRUEPEER_PORT, WILDCARD,
};
use crate::lab::app::App;
use crate::lab::haproxy::{HaProxy, Options};
use crate::lab::header::Version;
use crate::lab::server::Nginx;
use crate::lab::stream::{expect, expect_end, read_line};
use crate::lab::wire::{Connection, Wire};

/// [G-11] A balancer that keeps its connections for later requests has one for each client.
#[test]
fn kept_connections_are_not_shared_between_clients() -> Result<()> {
    for server in ["send-proxy", "send-proxy-v2"] {
        let lab = Lab::new()?;
        let _app = Nginx::start(&lab.host, WILDCARD.v6(APP_PORT))?;
        let _truepeer = lab.truepeer().start()?;
        let mut wire = Wire::tap(&lab.host, TRUEPEER_PORT)?;
        let options = Options {
            mode: "http",
            more: "    http-reuse always",
            ..Options::tcp(server)
        };
        let _haproxy = HaProxy::with(&lab.edge, &options, HOST.v4(TRUEPEER_PORT))?;
        let clients = [CLIENT.v4(41000), OTHER_CLIENT.v4(41000), CLIENT.v6(41000)];
        let mut streams = Vec::new();
        for client in clients {
            streams.push((lab.visitor(client, FRONT_PORT)?, client));
        }
        let mut seen = BTreeSet::new();
        for _request in 0..3 {
            for (stream, client) in &mut streams {
                stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
                while !read_line(stream)?.trim().is_empty() {}
                let peer = http_peer(&read_line(stream)?)?;
                assert_eq!(peer.ip(), client.ip());
                seen.insert(peer);
            }
        }
        let sent = wire.connections()?;
        ensure!(sent.len() < 3 * clients.len(), "nothing was kept: {sent:?}");
        let mut named = Vec::new();
        for bytes in sent.iter().map(Connection::bytes) {
            let ends = header(&bytes)?.and_then(|header| header.endpoints);
            named.push(ends.context("a header without a client")?.source);
        }
        ensure!(named.iter().all(|source| clients.contains(source)));
        for client in clients {
            // Exactly this one; another port only for what is opened beside a connection from it.
            ensure!(seen.contains(&client), "{client} isn't in {seen:?}");
            let peers = seen.iter().filter(|peer| peer.ip() == client.ip());
            let opened = named.iter().filter(|source| **source == client);
            ensure!(peers.count() <= opened.count(), "{seen:?} for {named:?}");
        }
    }
    Ok(())
}

/// [S-6] Nothing is lost of what shares a segment with the header.
#[test]
fn header_and_first_payload_in_one_segment() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let _truepeer = lab.truepeer().start()?;
    let mut wire = Wire::tap(&lab.host, TRUEPEER_PORT)?;
    for (version, client) in Version::BOTH.into_iter().zip([CLIENT, OTHER_CLIENT]) {
        let client = client.v4(41000);
        let mut sent = version.header(client, FRONT.v4(FRONT_PORT));
        sent.extend(b"hello");
        let _balancer = lab.balancer(&sent)?;
        let (mut stream, peer) = app.accept()?;
        assert_eq!(peer, client);
        expect(&mut stream, b"hello")?;
        let last = wire.connections()?.last();
        assert_eq!(
            last.map(|connection| &connection.segments),
            Some(&vec![sent])
        );
    }
    Ok(())
}

/// [S-7] A client that says nothing and only ends its half reaches the app all the same.
#[test]
fn a_client_that_sends_nothing() -> Result<()> {
    for options in ["send-proxy", "send-proxy-v2"] {
        let lab = Lab::new()?;
        let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
        let _truepeer = lab.truepeer().start()?;
        let mut wire = Wire::tap(&lab.host, TRUEPEER_PORT)?;
        let _haproxy = HaProxy::start(&lab.edge, options, HOST.v4(TRUEPEER_PORT))?;
        let client = CLIENT.v4(41000);
        let mut visitor = lab.visitor(client, FRONT_PORT)?;
        let (mut stream, peer) = app.accept()?;
        assert_eq!(peer, client);
        let sent = wire.connections()?.first().map(Connection::bytes);
        let sent = sent.context("a connection")?;
        let Parse::Complete { len, .. } = parse(&sent, &Policy::default())? else {
            bail!("no whole header: {}", sent.escape_ascii());
        };
        assert_eq!(sent.len(), len, "nothing but a header");
        visitor.shutdown(Shutdown::Write)?;
        expect_end(&mut stream)?;
        stream.write_all(b"bye")?;
        expect(&mut visitor, b"bye")?;
    }
    Ok(())
}
