//! `truepeer connections`, and what the log says of each at -v.

use std::net::TcpStream;
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, LOOPBACK};
use crate::lab::app::Echo;
use crate::lab::header::{Version, v2};
use crate::lab::path::Path;
use crate::lab::poll;
use crate::lab::proc::Proc;
use crate::lab::stream::{read_greeting, round_trip};

/// In the order of dropping.
struct Served {
    truepeer: Proc,
    _app: Echo,
    lab: Lab,
}

impl Served {
    fn new(args: &[&str]) -> Result<Self> {
        let lab = Lab::new()?;
        let _app = Echo::greeting(&lab.host, LOOPBACK.v4(APP_PORT))?;
        let truepeer = lab.truepeer().args(args).start()?;
        Ok(Self {
            truepeer,
            _app,
            lab,
        })
    }

    /// A connection that the application has greeted.
    fn open(&self, header: &[u8]) -> Result<TcpStream> {
        let mut balancer = self.lab.balancer(header)?;
        read_greeting(&mut balancer)?;
        Ok(balancer)
    }

    fn with_tlvs(&self, tlvs: &[u8]) -> Result<TcpStream> {
        self.open(&v2(0x21, CLIENT.v4(41000), FRONT.v4(FRONT_PORT), tlvs))
    }

    fn only(&self) -> Result<Value> {
        let mut shown = self.lab.shown("connections")?;
        assert_eq!(shown.as_array().map(Vec::len), Some(1), "{shown:#}");
        Ok(shown[0].take())
    }

    fn for_people(&self) -> Result<String> {
        let said = self
            .lab
            .truepeer_raw(&["connections", "--instance", self.lab.instance()])?;
        said.expect(0, &["SERVICE", "CLIENT"])?;
        Ok(said.text)
    }
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).expect("a short value");
    [&[kind][..], &len.to_be_bytes(), value].concat()
}

#[test]
fn a_connection_is_listed_from_its_header_to_its_end() -> Result<()> {
    listed(Path::Direct, "direct")
}

#[test]
fn a_connection_of_the_daemons_is_listed_as_well() -> Result<()> {
    listed(Path::Daemon, "daemon")
}

fn listed(path: Path, name: &str) -> Result<()> {
    let served = Served::new(path.args())?;
    assert_eq!(served.lab.shown("connections")?, json!([]));
    let client = CLIENT.v4(41000);
    let mut balancer = served.open(&Version::V1.header(client, FRONT.v4(FRONT_PORT)))?;
    round_trip(&mut balancer, b"twelve bytes")?;
    let greeting = format!("you are {client}\n").len();
    let mut shown = served.only()?;
    let seconds = shown["seconds"].take();
    ensure!(
        seconds.as_u64().is_some_and(|seconds| seconds < 60),
        "{seconds}"
    );
    assert_eq!(
        shown,
        json!({
            "service": "default",
            "client": client.to_string(),
            "balancer": balancer.local_addr()?.to_string(),
            "target": LOOPBACK.v4(APP_PORT).to_string(),
            "spoofed": true,
            "path": name,
            "seconds": null,
            "header": {
                "version": "v1",
                "command": "proxy",
                "tlvs": [],
                "tlvs_left_out": 0,
            },
            "up": 12,
            "down": greeting + 12,
        })
    );
    let text = served.for_people()?;
    let row = text.lines().nth(1).context("a row")?;
    for cell in [
        "default",
        "203.0.113.9:41000",
        "127.0.0.1:8080",
        "yes",
        "12",
        "v1 proxy",
    ] {
        ensure!(row.contains(cell), "no {cell} in {row}");
    }
    drop(balancer);
    poll::until("the connection to leave the list", || {
        let shown = served.lab.shown("connections")?;
        Ok((shown == json!([])).then_some(()))
    })
}

#[test]
fn a_local_connection_is_the_balancers() -> Result<()> {
    let served = Served::new(&[])?;
    let balancer = served.open(&v2(0x20, CLIENT.v4(1), FRONT.v4(2), b""))?;
    let shown = served.only()?;
    assert_eq!(shown["client"], shown["balancer"]);
    assert_eq!(shown["client"], balancer.local_addr()?.to_string());
    assert_eq!(shown["header"]["command"], "local");
    Ok(())
}

/// What a hostile balancer, or a hostile client through it, would like to do to a terminal or a log.
const HOSTILE: &[u8] = b"\x1b[31mred\r\nFORGED line\x07\0\xff\"\\";
const ESCAPED: &str = r#"\x1b[31mred\x0d\x0aFORGED line\x07\x00\xff"\x5c"#;

/// [SEC-3] [SEC-6] [V2-16] [V2-19]
#[test]
fn tlvs_are_shown_escaped_in_the_list_and_in_the_log() -> Result<()> {
    let served = Served::new(&["-v", "--direct", "off"])?;
    let tlvs = [
        tlv(0x01, b"h2"),
        tlv(0x02, HOSTILE),
        tlv(0xE7, b"?"),
        tlv(0xEE, &[1, 1, 2, 3, 4]),
    ];
    let _balancer = served.with_tlvs(&tlvs.concat())?;
    let shown = served.only()?;
    assert_eq!(
        shown["header"]["tlvs"],
        json!([
            { "type": "alpn", "value": "h2" },
            { "type": "authority", "value": ESCAPED },
            { "type": "unknown", "value": { "kind": 0xE7, "value": "?" } },
            { "type": "azure_link", "value": 0x0403_0201 },
        ])
    );
    let line = served.truepeer.wait_line("connected")?;
    let authority = format!("Authority(\"{ESCAPED}\")");
    for part in [
        "203.0.113.9:41000",
        "198.51.100.1",
        "Alpn(\"h2\")",
        authority.as_str(),
    ] {
        ensure!(line.contains(part), "no {part} in {line}");
    }
    let text = served.for_people()?;
    ensure!(
        text.contains(ESCAPED) && text.contains("alpn=\"h2\""),
        "{text}"
    );
    let controls = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
    ensure!(!controls(&text) && text.lines().count() == 2, "{text:?}");
    let log = served.truepeer.log().join("\n");
    ensure!(!controls(&log) && !log.contains("\nFORGED"), "{log:?}");
    Ok(())
}

/// [V2-26] A client's certificate fills no memory and hides no name.
#[test]
fn tls_is_shown_without_the_certificate() -> Result<()> {
    let served = Served::new(&[])?;
    let subs = [
        tlv(0x21, b"TLSv1.3"),
        tlv(0x28, &[0x30; 1200]),
        tlv(0x22, b"a client"),
    ];
    let ssl = [&[7, 0, 0, 0, 0], subs.concat().as_slice()].concat();
    let _balancer = served.with_tlvs(&tlv(0x20, &ssl))?;
    let header = served.only()?["header"].take();
    assert_eq!(header["tlvs_left_out"], 1);
    assert_eq!(
        header["tlvs"][0]["value"]["subs"],
        json!([
            { "type": "version", "value": "TLSv1.3" },
            { "type": "common_name", "value": "a client" },
        ])
    );
    Ok(())
}

/// [SEC-4] [SEC-6]
#[test]
fn a_headerful_of_tlvs_is_bounded_in_the_list_and_in_the_log() -> Result<()> {
    let served = Served::new(&["-v", "--header-max-len", "65551"])?;
    let tlvs = tlv(0xE7, b"\xff\xff").repeat(10_000);
    let _balancer = served.with_tlvs(&tlvs)?;
    let shown = served.only()?;
    let kept = shown["header"]["tlvs"]
        .as_array()
        .map(Vec::len)
        .context("an array")?;
    let left_out = shown["header"]["tlvs_left_out"].as_u64();
    ensure!((1..=200).contains(&kept), "{kept}");
    assert_eq!(left_out, Some(10_000 - kept as u64));
    let line = served.truepeer.wait_line("connected")?;
    ensure!(line.len() < 10_000, "{} bytes in a line", line.len());
    Ok(())
}

#[test]
fn every_open_connection_is_listed_while_traffic_goes_on() -> Result<()> {
    const COUNT: u16 = 400;
    let served = Served::new(&["--workers", "2"])?;
    let mut open = Vec::new();
    for port in (20_000..).take(COUNT.into()) {
        open.push(served.open(&Version::V2.header(CLIENT.v4(port), FRONT.v4(FRONT_PORT)))?);
    }
    let shown = thread::scope(|scope| {
        let listing = scope.spawn(|| served.lab.shown("connections"));
        while !listing.is_finished() {
            round_trip(&mut open[0], b"still served")?;
        }
        listing.join().expect("no panic on the way")
    })?;
    let clients = shown.as_array().into_iter().flatten();
    let mut clients: Vec<_> = clients.filter_map(|one| one["client"].as_str()).collect();
    clients.sort_unstable();
    let expected = (20_000..20_000 + COUNT).map(|port| CLIENT.v4(port).to_string());
    ensure!(clients.iter().copied().eq(expected), "{clients:?}");
    Ok(())
}

#[test]
fn without_a_daemon_there_is_nothing_to_list() -> Result<()> {
    let lab = Lab::new()?;
    let said = lab.truepeer_raw(&["connections", "--instance", lab.instance()])?;
    said.expect(1, &[lab.instance(), "running?"])
}
