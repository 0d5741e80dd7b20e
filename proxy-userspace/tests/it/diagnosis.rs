//! What an operator gets to know of connections that came to nothing.

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Map, Value, json};
use truepeer::header::Refusal;

use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, TRUEPEER_PORT};
use crate::lab::app::App;
use crate::lab::header::{Version, v2, v2_raw};
use crate::lab::proc::Proc;
use crate::lab::stream::{expect_end, expect_reset, has_closed, reset};

const GARBAGE: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

fn claim(client: &str) -> Vec<u8> {
    let client = SocketAddr::new(client.parse().expect("an address"), 41000);
    Version::V2.header(client, FRONT.like(client, FRONT_PORT))
}

/// A header for each reason to refuse one that the parser has for a stream.
fn bad_headers() -> Vec<(&'static str, Vec<u8>)> {
    let line = |rest: &str| format!("PROXY {rest}").into_bytes();
    let block = &claim("203.0.113.9")[16..];
    let tlvs = |tlvs: &[u8]| v2(0x21, CLIENT.v4(41000), FRONT.v4(FRONT_PORT), tlvs);
    let crc = [0x03, 0, 4, 1, 2, 3, 4];
    vec![
        ("bad_signature", GARBAGE.to_vec()),
        (
            "v1_bad_protocol",
            line("UDP4 203.0.113.9 203.0.113.1 1 443\r\n"),
        ),
        ("v1_no_crlf", line(&format!("UNKNOWN {}", "x".repeat(107)))),
        (
            "v1_lone_line_end",
            line("TCP4 203.0.113.9 203.0.113.1 1 443\n"),
        ),
        ("v1_field_count", line("TCP4 203.0.113.9 203.0.113.1 1\r\n")),
        (
            "v1_bad_address",
            line("TCP4 203.0.113.09 203.0.113.1 1 443\r\n"),
        ),
        (
            "port_not_decimal",
            line("TCP4 203.0.113.9 203.0.113.1 +80 443\r\n"),
        ),
        (
            "port_leading_zero",
            line("TCP4 203.0.113.9 203.0.113.1 080 443\r\n"),
        ),
        (
            "port_out_of_range",
            line("TCP4 203.0.113.9 203.0.113.1 65616 443\r\n"),
        ),
        ("bad_version", v2_raw(0x31, 0x11, block)),
        ("bad_command", v2_raw(0x22, 0x11, block)),
        ("bad_family", v2_raw(0x21, 0x41, block)),
        ("transport_mismatch", v2_raw(0x21, 0x12, block)),
        ("address_block_short", v2_raw(0x21, 0x11, &block[..11])),
        ("header_too_long", v2_raw(0x21, 0x11, &[0; 4096])),
        ("tlv_malformed", tlvs(&[4, 0, 9, 1])),
        ("crc_bad_length", tlvs(&[0x03, 0, 1, 1])),
        ("crc_repeated", tlvs(&[crc, crc].concat())),
        ("crc_mismatch", tlvs(&crc)),
    ]
}

/// And what is refused for other reasons: by a service without an IPv6 target, without an app, and
/// with `--on-local reject`.
fn other_refusals() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("client_loopback", claim("127.0.0.1")),
        ("client_unspecified", claim("0.0.0.0")),
        ("client_multicast", claim("224.0.0.1")),
        ("client_broadcast", claim("255.255.255.255")),
        ("client_link_local", claim("fe80::9")),
        ("client_steer_address", claim("169.254.80.80")),
        ("local_refused", v2_raw(0x20, 0, b"")),
        ("no_target", claim("2001:db8:c::9")),
        ("connect_failed", claim("203.0.113.9")),
    ]
}

/// One line each, that names the balancer and has nothing of the header; one count each.
/// [G-7] [SEC-1] [SEC-3] [V2-21]
#[test]
fn every_refusal_has_its_name_in_the_log_and_in_status() -> Result<()> {
    let lab = Lab::new()?;
    let target = LOOPBACK.v4(APP_PORT).to_string();
    // A SYN is refused while nobody listens.
    let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let truepeer = lab
        .truepeer()
        .no_targets()
        .args(["-4", &target, "--on-local", "reject"])
        .start()?;
    let mut expected = Map::new();
    for (reason, bytes) in bad_headers().into_iter().chain(other_refusals()) {
        let mut balancer = lab.balancer(b"")?;
        if reason == "connect_failed" {
            // Not by dropping it: a process that another test is starting may have it for a moment.
            app.stop()?;
        }
        balancer.write_all(&bytes)?;
        let from = balancer.local_addr()?.to_string();
        expect_reset(&mut balancer).context(reason)?;
        let line = truepeer.wait_line(&format!("{reason:?}"))?;
        ensure!(line.contains("WARN") && line.contains(&from), "{line}");
        expected.insert(reason.into(), 1.into());
    }
    lab.wait_ended(&Value::Object(expected))?;

    // Of all services, which are one here; and for people.
    let status = lab.shown("status")?;
    assert_eq!(status["connections"], status["services"][0]["connections"]);
    let said = lab.truepeer_raw(&["status", "--instance", lab.instance()])?;
    said.expect(0, &["ended crc_mismatch 1", "ended port_out_of_range 1"])
}

/// A reason that is new needs a header above.
#[test]
fn no_refusal_is_forgotten_here() {
    const ELSEWHERE: &[&str] = &[
        "version_not_allowed",
        // not of streams
        "datagram_incomplete",
        "v1_in_datagram",
        "spp_short",
        "spp_bad_magic",
    ];
    let bad = bad_headers();
    for name in Refusal::ALL {
        let here = bad.iter().any(|(reason, _)| reason == name);
        assert!(here != ELSEWHERE.contains(name), "{name}");
    }
}

/// [G-8]
#[test]
fn the_other_version_is_named_as_such() -> Result<()> {
    let lab = Lab::new()?;
    let _app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let truepeer = lab.truepeer().args(["--header", "v2"]).start()?;
    let header = Version::V1.header(CLIENT.v4(41000), FRONT.v4(FRONT_PORT));
    expect_reset(&mut lab.balancer(&header)?)?;
    lab.wait_ended(&json!({ "version_not_allowed": 1 }))?;
    truepeer.wait_line("\"version_not_allowed\"").map(drop)
}

/// A health check that only connects is nothing to bother anybody with.
#[test]
fn leaving_without_a_byte_is_no_error() -> Result<()> {
    let lab = Lab::new()?;
    let _app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let mut truepeer = lab.truepeer().by_daemon().start()?;
    let mut orderly = lab.balancer(b"")?;
    orderly.shutdown(Shutdown::Write)?;
    has_closed(&mut orderly);
    reset(lab.balancer(b"")?)?;
    lab.wait_ended(&json!({ "silent": 2 }))?;
    let log = log_to_the_end(&mut truepeer)?;
    let about = |line: &&String| is_warning(line) || line.contains("silent");
    assert_eq!(log.iter().find(about), None, "{log:#?}");
    Ok(())
}

/// But for the one that a start on an old kernel has.
fn is_warning(line: &str) -> bool {
    line.contains("WARN") && !line.contains("WARN tcx")
}

fn log_to_the_end(truepeer: &mut Proc) -> Result<Vec<String>> {
    truepeer.signal(Signal::TERM)?;
    truepeer.wait_exit()?;
    Ok(truepeer.log())
}

/// [G-4] [G-5]
#[test]
fn headers_that_end_early_are_told_from_those_that_are_late() -> Result<()> {
    let lab = Lab::new()?;
    let _app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let truepeer = lab.truepeer().args(["--header-timeout", "500ms"]).start()?;
    let cut = lab.balancer(b"PROXY TCP4 ")?;
    cut.shutdown(Shutdown::Write)?;
    let mut late = lab.balancer(b"PROXY TCP4 203")?;
    expect_reset(&mut late)?;
    lab.wait_ended(&json!({ "header_cut": 1, "header_timeout": 1 }))?;
    let line = truepeer.wait_line("\"header_timeout\"")?;
    ensure!(
        line.contains("14 bytes") && !line.contains("hint"),
        "{line}"
    );
    truepeer.wait_line("\"header_cut\"").map(drop)
}

/// A balancer that waits for its client while the client waits for the application.
#[test]
fn a_withheld_header_gets_a_hint_once_per_burst() -> Result<()> {
    let lab = Lab::new()?;
    let _app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let truepeer = lab.truepeer().args(["--header-timeout", "500ms"]);
    let mut truepeer = truepeer.by_daemon().start()?;
    // A late one beforehand doesn't take the hint's turn.
    expect_reset(&mut lab.balancer(b"PROXY")?)?;
    let mut waiting: Vec<_> = (0..20).map(|_| lab.balancer(b"")).collect::<Result<_>>()?;
    for balancer in &mut waiting {
        expect_reset(balancer)?;
    }
    lab.wait_ended(&json!({ "header_timeout": 21 }))?;
    let log = log_to_the_end(&mut truepeer)?;
    let hints: Vec<_> = log.iter().filter(|line| line.contains("hint: ")).collect();
    assert_eq!(hints.len(), 1, "{log:#?}");
    for part in [
        "0 bytes",
        "198.51.100.1",
        "AWS NLB",
        "on_first_ack",
        "speaks first",
    ] {
        ensure!(hints[0].contains(part), "no \"{part}\" in {}", hints[0]);
    }
    Ok(())
}

/// On the direct path such a connection is nowhere but in the programs' counters. A health check that
/// leaves, and a header that comes, are none.
#[test]
fn withheld_headers_get_the_hint_on_the_direct_path_too() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let truepeer = lab.truepeer().args(["--header-timeout", "1s"]);
    let mut truepeer = truepeer.start()?;
    reset(lab.balancer(b"")?)?;
    let _served = lab.balancer(&claim("203.0.113.9"))?;
    app.accept()?;
    // One: of two, the daemon's look could fall between.
    let _waiting = lab.balancer(b"")?;
    let line = truepeer.wait_line("hint: ")?;
    for part in ["1 handshakes", "header_timeout", "AWS NLB", "on_first_ack"] {
        ensure!(line.contains(part), "no \"{part}\" in {line}");
    }
    let log = log_to_the_end(&mut truepeer)?;
    let hints = log.iter().filter(|line| line.contains("hint: ")).count();
    ensure!(hints == 1, "{log:#?}");
    Ok(())
}

/// [SEC-1] [SEC-4]
#[test]
fn a_flood_from_many_balancers_is_counted_and_its_log_is_bounded() -> Result<()> {
    const BALANCERS: u8 = 50;
    const MOST: usize = 100;
    let lab = Lab::new()?;
    // Every address of this network is the edge's.
    lab.edge.ip("route add local 192.0.2.0/24 dev lo")?;
    let _app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let mut truepeer = lab.truepeer().allow(["192.0.2.0/24"]).start()?;
    let bad = [
        GARBAGE,
        b"PROXY UDP4 ",
        b"PROXY TCP4 1 2 3\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31",
    ];
    for number in 0..BALANCERS {
        for bytes in bad {
            let from = SocketAddr::from(([192, 0, 2, number], 0));
            let mut balancer = lab.edge.connect_from(from, HOST.v4(TRUEPEER_PORT))?;
            balancer.write_all(bytes)?;
            expect_reset(&mut balancer)?;
        }
    }
    lab.wait_ended(&json!({
        "bad_signature": BALANCERS,
        "v1_bad_protocol": BALANCERS,
        "v1_lone_line_end": BALANCERS,
        "bad_version": BALANCERS,
    }))?;
    let log = log_to_the_end(&mut truepeer)?;
    let warnings = log.iter().filter(|line| is_warning(line)).count();
    ensure!((MOST / 2..=MOST).contains(&warnings), "{warnings} lines");
    Ok(())
}

/// What was served and ended in order is counted as that, not as a refusal.
#[test]
fn an_orderly_connection_is_counted_as_closed() -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let _truepeer = lab.truepeer().start()?;
    let mut balancer = lab.balancer(&claim("203.0.113.9"))?;
    let (stream, _) = app.accept()?;
    let counts = lab.counts()?;
    assert_eq!(
        (&counts["accepted"], &counts["open"]),
        (&json!(1), &json!(1))
    );
    drop(stream);
    expect_end(&mut balancer)?;
    drop(balancer);
    lab.wait_ended(&json!({ "closed": 1 }))
}
