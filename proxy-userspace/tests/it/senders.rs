//! Real balancers in front, an app on loopback behind.

use std::io::Write;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, BALANCER, CLIENT, FRONT_PORT, HOST, LOOPBACK, OTHER_CLIENT, TRUEPEER_PORT, WILDCARD,
};
use crate::lab::app::{App, Echo};
use crate::lab::haproxy::{HaProxy, MAPPED_PORT, Options};
use crate::lab::path::Path;
use crate::lab::poll;
use crate::lab::sender::NginxStream;
use crate::lab::stream::{read_greeting, read_line, round_trip};

#[test]
fn haproxy_v1() -> Result<()> {
    through_haproxy("send-proxy")
}

#[test]
fn haproxy_v2() -> Result<()> {
    through_haproxy("send-proxy-v2")
}

#[test]
fn haproxy_v2_with_tlvs() -> Result<()> {
    through_haproxy("send-proxy-v2 proxy-v2-options crc32c,unique-id")
}

/// Newer ones say of a connection whatever they are told to.
#[test]
fn haproxy_v2_with_a_tlv_of_its_own() -> Result<()> {
    for path in Path::BOTH {
        let lab = Lab::new()?;
        let _app = Echo::greeting(&lab.host, LOOPBACK.v4(APP_PORT))?;
        let _truepeer = lab.truepeer().args(path.args()).start()?;
        let options = Options::newer("send-proxy-v2 set-proxy-v2-tlv-fmt(0xE1) %ci:%cp")?;
        let _edge = HaProxy::with(&lab.edge, &options, HOST.v4(TRUEPEER_PORT))?;
        let client = CLIENT.v4(41000);
        let mut visitor = lab.visitor(client, FRONT_PORT)?;
        assert_eq!(read_greeting(&mut visitor)?, client);
        let shown = poll::until("the connection to be listed", || {
            let mut shown = lab.shown("connections")?;
            Ok(shown[0].is_object().then(|| shown[0].take()))
        })?;
        assert_eq!(shown["path"], path.name());
        let value = json!({ "kind": 0xE1, "value": client.to_string() });
        let tlvs = json!([{ "type": "unknown", "value": value }]);
        assert_eq!(shown["header"]["tlvs"], tlvs);
    }
    Ok(())
}

#[test]
fn haproxy_health_checks_come_from_the_balancer() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let _truepeer = lab.truepeer().start()?;
    let check = "send-proxy-v2 check check-send-proxy inter 200ms";
    let _edge = HaProxy::start(&lab.edge, check, HOST.v4(TRUEPEER_PORT))?;
    assert_eq!(app.accept()?.1.ip(), BALANCER.v4);
    Ok(())
}

#[test]
fn nginx_stream() -> Result<()> {
    for to in HOST.both(TRUEPEER_PORT) {
        let lab = Lab::new()?;
        let _app = Echo::greeting(&lab.host, WILDCARD.v6(APP_PORT))?;
        let _truepeer = lab.truepeer().start()?;
        let _edge = NginxStream::start(&lab.edge, to)?;
        visitors_are_seen(&lab, FRONT_PORT).with_context(|| format!("nginx to {to}"))?;
    }
    Ok(())
}

/// curl is client and balancer in one: its header says its own address.
#[test]
fn curl() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, WILDCARD.v6(APP_PORT))?;
    let clients = [CLIENT.v4.to_string(), CLIENT.v6.to_string()];
    let _truepeer = lab.truepeer().allow(clients).start()?;
    for client in CLIENT.both(41000) {
        let url = format!("http://{}/", HOST.like(client, TRUEPEER_PORT));
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-g", "--max-time", "20", "--haproxy-protocol"])
            .args(["--interface", &client.ip().to_string()])
            .args(["--local-port", &client.port().to_string()])
            .arg(url);
        let curl = lab.client.spawn(curl)?;
        let (mut stream, peer) = app.accept()?;
        assert_eq!(peer, client);
        while read_line(&mut stream)? != "\r" {}
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nserved\n")?;
        drop(stream);
        curl.wait_line("served")?;
    }
    Ok(())
}

/// Each client over each family between HAProxy and truepeer.
fn through_haproxy(options: &str) -> Result<()> {
    for to in HOST.both(TRUEPEER_PORT) {
        let lab = Lab::new()?;
        let _app = Echo::greeting(&lab.host, WILDCARD.v6(APP_PORT))?;
        let _truepeer = lab.truepeer().start()?;
        let _edge = HaProxy::start(&lab.edge, options, to)?;
        visitors_are_seen(&lab, FRONT_PORT).with_context(|| format!("{options} to {to}"))?;

        // On a dual-stack socket HAProxy calls an IPv4 client ::ffff:203.0.113.9.
        let client = CLIENT.v4(42000);
        let mut visitor = lab.visitor(client, MAPPED_PORT)?;
        assert_eq!(
            read_greeting(&mut visitor)?,
            client,
            "from a mapped address"
        );
    }
    Ok(())
}

fn visitors_are_seen(lab: &Lab, port: u16) -> Result<()> {
    let clients = [CLIENT.both(41000), OTHER_CLIENT.both(41000)];
    for client in clients.into_iter().flatten() {
        let mut visitor = lab.visitor(client, port)?;
        // The app speaks first: the header alone has to open the connection.
        assert_eq!(read_greeting(&mut visitor)?, client);
        round_trip(&mut visitor, b"hello")?;
    }
    Ok(())
}
