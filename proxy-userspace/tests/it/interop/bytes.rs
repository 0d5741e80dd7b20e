//! What our writer makes of the same addresses is what HAProxy sends, byte for byte.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use truepeer::header::{Endpoints, V2Builder, write};

use super::cell::header;
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST};
use crate::lab::app::App;
use crate::lab::haproxy::{HaProxy, MAPPED_PORT, Options};
use crate::lab::stream::{expect, read_line};

/// [S-1] [S-2]
#[test]
fn v1() -> Result<()> {
    same("send-proxy", |ends| Ok(write::v1(Some(ends)).into_bytes()))
}

/// [S-4]
#[test]
fn v2() -> Result<()> {
    same("send-proxy-v2", |ends| Ok(V2Builder::stream(ends).build()?))
}

/// [S-4] [V2-20]
#[test]
fn v2_with_crc() -> Result<()> {
    same("send-proxy-v2 proxy-v2-options crc32c", |ends| {
        Ok(V2Builder::stream(ends).crc32c().build()?)
    })
}

/// [S-5] [V2-30]
#[test]
fn local() -> Result<()> {
    check_is("send-proxy-v2", &V2Builder::local().build()?)
}

/// [S-5] [V2-30]
#[test]
fn local_with_crc() -> Result<()> {
    let written = V2Builder::local().crc32c().build()?;
    check_is("send-proxy-v2 proxy-v2-options crc32c", &written)
}

/// [V1-8] The one difference: HAProxy writes mapped addresses with a dotted tail, which the written
/// grammar doesn't have.
#[test]
fn v1_of_mapped_addresses() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, HOST.v4(APP_PORT))?;
    let _haproxy = HaProxy::start(&lab.edge, "send-proxy", HOST.v4(APP_PORT))?;
    let _visitor = lab.visitor(CLIENT.v4(41000), MAPPED_PORT)?;
    let theirs = read_line(&mut app.accept()?.0)? + "\n";
    let ours = write::v1(Some(&mapped()));
    ensure!(
        theirs.starts_with("PROXY TCP6 ::ffff:203.0.113.9 "),
        "{theirs}"
    );
    ensure!(ours.starts_with("PROXY TCP6 ::ffff:cb00:7109 "), "{ours}");
    let [theirs, ours] = [theirs.as_bytes(), ours.as_bytes()].map(header);
    assert_eq!(theirs?, ours?);
    Ok(())
}

/// Clients of either family, and an IPv4 client that comes as IPv6.
fn same(options: &str, write: fn(&Endpoints) -> Result<Vec<u8>>) -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, HOST.v4(APP_PORT))?;
    let _haproxy = HaProxy::start(&lab.edge, options, HOST.v4(APP_PORT))?;
    for source in CLIENT.both(41000) {
        let destination = FRONT.like(source, FRONT_PORT);
        let _visitor = lab.visitor(source, FRONT_PORT)?;
        let written = write(&Endpoints {
            source,
            destination,
        })?;
        expect(&mut app.accept()?.0, &written)?;
    }
    if options.contains("v2") {
        let _visitor = lab.visitor(CLIENT.v4(41001), MAPPED_PORT)?;
        let ends = Endpoints {
            source: SocketAddr::new(mapped().source.ip(), 41001),
            ..mapped()
        };
        expect(&mut app.accept()?.0, &write(&ends)?)?;
    }
    Ok(())
}

/// What HAProxy sends to see whether a server lives, and nothing after it.
fn check_is(options: &str, written: &[u8]) -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, HOST.v4(APP_PORT))?;
    let server = format!("{options} check check-send-proxy inter 100ms");
    let _haproxy = HaProxy::with(&lab.edge, &Options::tcp(&server), HOST.v4(APP_PORT))?;
    let mut sent = Vec::new();
    // It closes with a reset, which no error of ours should hide.
    let ended = app.accept()?.0.read_to_end(&mut sent);
    assert_eq!(
        sent.escape_ascii().to_string(),
        written.escape_ascii().to_string(),
        "{ended:?}"
    );
    Ok(())
}

/// [`CLIENT`] and [`FRONT`] as an IPv6 socket that takes IPv4 has them.
fn mapped() -> Endpoints {
    Endpoints {
        source: SocketAddr::new(to_mapped(CLIENT.v4), 41000),
        destination: SocketAddr::new(to_mapped(FRONT.v4), MAPPED_PORT),
    }
}

fn to_mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        IpAddr::V6(_) => ip,
    }
}
