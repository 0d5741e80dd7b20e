//! Real senders in front of truepeer, real apps behind it: each sees the other's client.
//!
//! The table below is the test: a row is a sender with one way to set it up, and a cell is an app
//! behind it. The README shows the same table, and a test holds it to this one.

mod bytes;
mod cell;
mod contents;
mod doc;
mod health;
mod sharing;

use std::any::Any;

use anyhow::Result;
use truepeer::header::Version;

use crate::lab::dnsdist::Dnsdist;
use crate::lab::haproxy::{HaProxy, Options};
use crate::lab::hitch::Hitch;
use crate::lab::sender::NginxStream;
use crate::lab::stunnel::Stunnel;
use crate::lab::varnish::Varnish;

use cell::Place;

/// A sender and what its connections have to look like.
struct Row {
    sender: &'static str,
    /// What turns the header on.
    setting: &'static str,
    version: Version,
    /// The TLVs of its headers, in the order sent.
    tlvs: &'static str,
    client: Client,
    apps: &'static [App],
    start: Start,
}

/// Starts the sender; it runs until what this returns is dropped.
type Start = fn(&Place<'_>) -> Result<Box<dyn Any>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    Plain,
    /// With a certificate of its own.
    Tls,
    /// The sender is the client.
    Itself,
}

/// The first two speak first, the others wait for the client to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum App {
    Smtp,
    Sshd,
    Http,
    Dns,
}

const STREAMS: &[App] = &[App::Smtp, App::Sshd, App::Http];

/// Every row is a test, so that the table can't show what isn't tested.
macro_rules! rows {
    ($($name:ident: $row:expr,)*) => {
        const ROWS: &[Row] = &[$($row),*];

        $(
            /// [G-10] [G-11] [S-7] Each client has one connection with the header before all else,
            /// and needs to say nothing for the app to see it.
            #[test]
            fn $name() -> Result<()> {
                cell::check(&$row)
            }
        )*
    };
}

rows! {
    haproxy_v1: Row {
        sender: "HAProxy",
        setting: "send-proxy",
        version: Version::V1,
        tlvs: "",
        client: Client::Plain,
        apps: STREAMS,
        start: |at| Ok(Box::new(HaProxy::start(at.netns, "send-proxy", at.to)?)),
    },
    haproxy_v2: Row {
        sender: "HAProxy",
        setting: "send-proxy-v2",
        version: Version::V2,
        tlvs: "",
        client: Client::Plain,
        apps: STREAMS,
        start: |at| Ok(Box::new(HaProxy::start(at.netns, "send-proxy-v2", at.to)?)),
    },
    haproxy_v2_crc: Row {
        sender: "HAProxy",
        setting: "send-proxy-v2 proxy-v2-options crc32c,unique-id",
        version: Version::V2,
        tlvs: "CRC32C, UNIQUE_ID",
        client: Client::Plain,
        apps: STREAMS,
        start: |at| Ok(Box::new(HaProxy::start(
            at.netns,
            "send-proxy-v2 proxy-v2-options crc32c,unique-id",
            at.to,
        )?)),
    },
    haproxy_v2_tls: Row {
        sender: "HAProxy, TLS",
        setting: "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority,ssl,ssl-cipher,cert-cn,cert-key,cert-sig",
        version: Version::V2,
        tlvs: "CRC32C, ALPN, AUTHORITY, UNIQUE_ID, SSL (VERSION, CN, KEY_ALG, SIG_ALG, CIPHER)",
        client: Client::Tls,
        apps: STREAMS,
        start: |at| {
            let server = "send-proxy-v2 proxy-v2-options \
                          crc32c,unique-id,authority,ssl,ssl-cipher,cert-cn,cert-key,cert-sig";
            Ok(Box::new(HaProxy::with(at.netns, &Options::tls(at.pki, server), at.to)?))
        },
    },
    haproxy_v2_tlv: Row {
        sender: "HAProxy 3.0",
        setting: "send-proxy-v2 set-proxy-v2-tlv-fmt(0xE1) %ci-%cp",
        version: Version::V2,
        tlvs: "0xe1",
        client: Client::Plain,
        apps: STREAMS,
        start: |at| {
            let options = Options::newer("send-proxy-v2 set-proxy-v2-tlv-fmt(0xE1) %ci-%cp")?;
            Ok(Box::new(HaProxy::with(at.netns, &options, at.to)?))
        },
    },
    nginx_stream_v1: Row {
        sender: "nginx, stream",
        setting: "proxy_protocol on",
        version: Version::V1,
        tlvs: "",
        client: Client::Plain,
        apps: STREAMS,
        start: |at| Ok(Box::new(NginxStream::start(at.netns, at.to)?)),
    },
    curl_v1: Row {
        sender: "curl",
        setting: "--haproxy-protocol",
        version: Version::V1,
        tlvs: "",
        client: Client::Itself,
        apps: &[App::Http],
        start: |_| Ok(Box::new(())),
    },
    varnish_v1: Row {
        sender: "Varnish",
        setting: ".proxy_header = 1",
        version: Version::V1,
        tlvs: "",
        client: Client::Plain,
        apps: &[App::Http],
        start: |at| Ok(Box::new(Varnish::start(at.netns, 1, at.to)?)),
    },
    varnish_v2: Row {
        sender: "Varnish",
        setting: ".proxy_header = 2",
        version: Version::V2,
        tlvs: "",
        client: Client::Plain,
        apps: &[App::Http],
        start: |at| Ok(Box::new(Varnish::start(at.netns, 2, at.to)?)),
    },
    hitch_v2: Row {
        sender: "Hitch",
        setting: "write-proxy-v2, proxy-tlv, proxy-client-cert",
        version: Version::V2,
        tlvs: "ALPN, AUTHORITY, client certificate (1 KB), SSL (VERSION, CIPHER)",
        client: Client::Tls,
        apps: STREAMS,
        start: |at| Ok(Box::new(Hitch::start(at.netns, at.pki, at.to)?)),
    },
    stunnel_v1: Row {
        sender: "stunnel",
        setting: "protocol = proxy",
        version: Version::V1,
        tlvs: "",
        client: Client::Tls,
        apps: STREAMS,
        start: |at| Ok(Box::new(Stunnel::start(at.netns, at.pki, at.to)?)),
    },
    dnsdist_v2: Row {
        sender: "dnsdist, TCP",
        setting: "useProxyProtocol=true",
        version: Version::V2,
        tlvs: "0xf0",
        client: Client::Plain,
        apps: &[App::Dns],
        start: |at| Ok(Box::new(Dnsdist::start(at.netns, at.to)?)),
    },
}
