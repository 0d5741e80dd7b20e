//! What truepeer makes of the bytes at the start of a connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, TRUEPEER_PORT};
use crate::lab::app::{App, Echo};
use crate::lab::header::{Version, v2, v2_raw};
use crate::lab::poll::{self, PATIENCE};
use crate::lab::proc::Proc;
use crate::lab::stall::is_acknowledged;
use crate::lab::stream::{expect, expect_end, expect_reset, has_closed, read_greeting, read_line};

const CLIENT_PORT: u16 = 41000;

fn good(version: Version) -> Vec<u8> {
    version.header(CLIENT.v4(CLIENT_PORT), FRONT.v4(FRONT_PORT))
}

/// An app on loopback that the test plays, and truepeer in front of it.
fn served(args: &[&str]) -> Result<(Lab, App, Proc)> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let truepeer = lab.truepeer().args(args).start()?;
    Ok((lab, app, truepeer))
}

/// A connection that is served from end to end. With one worker, what arrived before it has been
/// read by then, so this is the fence between two writes that have to arrive apart.
fn fence(lab: &Lab, app: &App) -> Result<()> {
    let client = CLIENT.v4(40000);
    let header = Version::V2.header(client, FRONT.v4(FRONT_PORT));
    let mut balancer = lab.balancer(&header)?;
    let (mut stream, peer) = app.accept()?;
    assert_eq!(peer, client, "let in by half a header");
    balancer.write_all(b"fence\n")?;
    ensure!(read_line(&mut stream)? == "fence");
    drop(stream);
    expect_end(&mut balancer)
}

#[test]
fn split_at_every_byte() -> Result<()> {
    for version in Version::BOTH {
        let (lab, app, _truepeer) = served(&["--workers", "1", "--header-timeout", "60s"])?;
        let mut halves = Vec::new();
        for (split, port) in (1..good(version).len()).zip(CLIENT_PORT..) {
            let client = CLIENT.v4(port);
            let mut bytes = version.header(client, FRONT.v4(FRONT_PORT));
            bytes.extend(b"hello");
            let rest = bytes.split_off(split);
            halves.push((lab.balancer(&bytes)?, client, rest));
        }
        fence(&lab, &app)?;
        app.saw_nobody()?;
        for (balancer, client, rest) in &mut halves {
            balancer.write_all(rest)?;
            let (mut stream, peer) = app.accept()?;
            assert_eq!(peer, *client);
            expect(&mut stream, b"hello")?;
        }
    }
    Ok(())
}

#[test]
fn one_byte_at_a_time() -> Result<()> {
    for version in Version::BOTH {
        let (lab, app, _truepeer) = served(&["--workers", "1", "--header-timeout", "60s"])?;
        let mut balancer = lab.balancer(b"")?;
        balancer.set_nodelay(true)?;
        for byte in good(version) {
            balancer.write_all(&[byte])?;
            // No two of them are in one segment.
            poll::until("a byte to arrive", || {
                Ok(is_acknowledged(&balancer)?.then_some(()))
            })?;
        }
        assert_eq!(app.accept()?.1, CLIENT.v4(CLIENT_PORT));
    }
    Ok(())
}

/// [S-6]
#[test]
fn payload_in_the_same_segment_is_kept() -> Result<()> {
    let (lab, app, _truepeer) = served(&[])?;
    for version in Version::BOTH {
        // A second header is payload like any other.
        let mut payload = b"first words, ".to_vec();
        payload.extend(good(Version::V1));
        payload.extend(good(Version::V2));
        let bytes = [good(version), payload.clone()].concat();
        let _balancer = lab.balancer(&bytes)?;
        let (mut stream, peer) = app.accept()?;
        assert_eq!(peer.ip(), CLIENT.v4);
        expect(&mut stream, &payload)?;
    }
    Ok(())
}

/// [S-7] A client that sends nothing yet has its connection all the same.
#[test]
fn a_header_alone_opens_the_connection() -> Result<()> {
    let lab = Lab::new()?;
    let _app = Echo::greeting(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let _truepeer = lab.truepeer().start()?;
    let mut balancer = lab.balancer(&good(Version::V2))?;
    assert_eq!(read_greeting(&mut balancer)?, CLIENT.v4(CLIENT_PORT));
    Ok(())
}

#[test]
fn local_and_unknown_come_from_the_balancer() -> Result<()> {
    let (lab, app, _truepeer) = served(&[])?;
    let claimed = (CLIENT.v4(CLIENT_PORT), FRONT.v4(FRONT_PORT));
    for header in [
        v2_raw(0x20, 0x00, b""),
        // the block is skipped, whatever the family says about its length
        v2_raw(0x20, 0x11, b""),
        v2_raw(0x20, 0x21, b"short"),
        v2(0x20, claimed.0, claimed.1, b""),
        // PROXY without a family
        v2_raw(0x21, 0x00, b""),
        v2_raw(0x21, 0x00, b"whatever"),
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 203.0.113.9 203.0.113.1 41000 443\r\n".to_vec(),
    ] {
        let bytes = [header.as_slice(), b"check"].concat();
        let case = String::from_utf8_lossy(&header);
        let balancer = lab.balancer(&bytes)?;
        let (mut stream, peer) = app.accept().with_context(|| format!("{case:?}"))?;
        assert_eq!(peer, balancer.local_addr()?, "{case:?}");
        expect(&mut stream, b"check")?;
    }
    Ok(())
}

#[test]
fn odd_but_legal_headers_are_served() -> Result<()> {
    let (lab, app, _truepeer) = served(&[])?;
    let noop = |length: u16| [&[0x04][..], &length.to_be_bytes(), &vec![0; length.into()]].concat();
    let with_tlvs = |port, tlvs: &[u8]| v2(0x21, CLIENT.v4(port), FRONT.v4(FRONT_PORT), tlvs);
    for (port, header) in [
        (
            1,
            b"PROXY TCP6 ::ffff:203.0.113.9 ::ffff:203.0.113.1 1 443\r\n".to_vec(),
        ),
        (2, with_tlvs(2, &noop(0))),
        // a type nobody knows, twice
        (3, with_tlvs(3, &[0xE7, 0, 1, 9, 0xE7, 0, 0])),
        // as long as one with a client's certificate in it
        (65_535, with_tlvs(65_535, &noop(1300))),
    ] {
        let case = String::from_utf8_lossy(&header);
        let mut balancer = lab.balancer(&header)?;
        let (mut stream, peer) = app.accept().with_context(|| format!("{case:?}"))?;
        assert_eq!(peer, CLIENT.v4(port), "{case:?}");
        balancer.write_all(b"after")?;
        expect(&mut stream, b"after")?;
    }
    Ok(())
}

#[test]
fn bad_headers_are_reset_and_reach_nobody() -> Result<()> {
    let (lab, app, _truepeer) = served(&[])?;
    let (source, destination) = (CLIENT.v4(CLIENT_PORT), FRONT.v4(FRONT_PORT));
    let block = &v2(0x21, source, destination, b"")[16..];
    let wrong_crc = v2(0x21, source, destination, &[0x03, 0, 4, 1, 2, 3, 4]);
    let mut bad: Vec<Vec<u8>> = [
        "GET / HTTP/1.0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "PROXYTCP4 203.0.113.9 203.0.113.1 41000 443\r\n",
        "PROXY  TCP4 203.0.113.9 203.0.113.1 41000 443\r\n",
        "PROXY tcp4 203.0.113.9 203.0.113.1 41000 443\r\n",
        "PROXY UDP4 203.0.113.9 203.0.113.1 41000 443\r\n",
        "PROXY TCP4 203.0.113.9 203.0.113.1 41000 443\n",
        "PROXY TCP4 203.0.113.9 203.0.113.1 41000 443 \r\n",
        "PROXY TCP4 203.0.113.9 203.0.113.1 41000\r\n",
        "PROXY TCP4 203.0.113.9 203.0.113.1 +80 443\r\n",
        "PROXY TCP4 203.0.113.9 203.0.113.1 080 443\r\n",
        "PROXY TCP4 203.0.113.9 203.0.113.1 65616 443\r\n",
        "PROXY TCP4 203.0.113.09 203.0.113.1 41000 443\r\n",
        "PROXY TCP4 203.0.113 203.0.113.1 41000 443\r\n",
        "PROXY TCP4 2001:db8:c::9 2001:db8:c::1 41000 443\r\n",
        "PROXY TCP6 203.0.113.9 203.0.113.1 41000 443\r\n",
        "PROXY TCP6 fe80::9%eth0 fe80::1 41000 443\r\n",
    ]
    .map(|line| line.as_bytes().to_vec())
    .into();
    bad.push([b"PROXY UNKNOWN ".as_slice(), &[b'x'; 92], b"\r\n"].concat());
    bad.extend([
        v2_raw(0x11, 0x11, block),           // version 1
        v2_raw(0x31, 0x11, block),           // version 3
        v2_raw(0x22, 0x11, block),           // a command that doesn't exist
        v2_raw(0x21, 0x41, block),           // a family that doesn't exist
        v2_raw(0x21, 0x13, block),           // a transport that doesn't exist
        v2_raw(0x21, 0x12, block),           // UDP over TCP
        v2_raw(0x21, 0x11, b""),             // no address block
        v2_raw(0x21, 0x11, &block[..11]),    // a short one
        v2_raw(0x21, 0x21, block),           // IPv4 addresses where IPv6 ones should be
        v2(0x21, source, destination, &[4]), // half a TLV
        v2(0x21, source, destination, &[4, 0, 9, 1]),
        wrong_crc,
    ]);
    for bytes in bad {
        let case = format!("{:?}", String::from_utf8_lossy(&bytes));
        let mut balancer = lab.balancer(&bytes)?;
        expect_reset(&mut balancer).context(case.clone())?;
        app.saw_nobody().context(case)?;
    }
    // and the one after them is none the worse
    let _balancer = lab.balancer(&good(Version::V2))?;
    assert_eq!(app.accept()?.1, source);
    Ok(())
}

#[test]
fn a_header_that_ends_early_reaches_nobody() -> Result<()> {
    let (lab, app, _truepeer) = served(&[])?;
    for version in Version::BOTH {
        let header = good(version);
        let mut balancer = lab.balancer(&header[..header.len() - 1])?;
        balancer.shutdown(Shutdown::Write)?;
        ensure!(has_closed(&mut balancer), "{version:?} was left open");
        app.saw_nobody()?;
    }
    Ok(())
}

#[test]
fn only_the_configured_version_is_taken() -> Result<()> {
    for (flag, taken, refused) in [
        ("v1", Version::V1, Version::V2),
        ("v2", Version::V2, Version::V1),
    ] {
        let (lab, app, _truepeer) = served(&["--header", flag])?;
        expect_reset(&mut lab.balancer(&good(refused))?)?;
        app.saw_nobody()?;
        let _balancer = lab.balancer(&good(taken))?;
        assert_eq!(app.accept()?.1, CLIENT.v4(CLIENT_PORT));
    }
    Ok(())
}

#[test]
fn a_silent_balancer_is_closed() -> Result<()> {
    // On the direct path it takes nothing, so nobody closes it.
    let daemon = ["--header-timeout", "500ms", "--direct", "off"];
    let (lab, app, _truepeer) = served(&daemon)?;
    let mut silent = lab.balancer(b"")?;
    let mut halfway = lab.balancer(&good(Version::V2)[..20])?;
    ensure!(has_closed(&mut silent), "a silent one was left open");
    ensure!(has_closed(&mut halfway), "half a header was left open");
    app.saw_nobody()
}

/// [G-5] The timer runs from accept; bytes that trickle in don't set it back.
#[test]
fn a_slow_header_is_closed() -> Result<()> {
    let (lab, app, _truepeer) = served(&["--header-timeout", "500ms"])?;
    let mut balancer = lab.balancer(b"PROXY UNKNOWN ")?;
    trickle_until_closed(&mut balancer)?;
    app.saw_nobody()
}

/// One byte every 100 ms: that never gives a whole header before the limit of 107 bytes is in.
fn trickle_until_closed(balancer: &mut TcpStream) -> Result<()> {
    const STEP: Duration = Duration::from_millis(100);
    balancer.set_read_timeout(Some(STEP))?;
    let deadline = Instant::now() + PATIENCE;
    for sent in 0..80 {
        match balancer.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => return Ok(()),
        }
        if balancer.write_all(b"x").is_err() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "open after {sent} bytes");
    }
    bail!("every byte set the timer back")
}

#[test]
fn a_busy_worker_still_serves_whole_headers() -> Result<()> {
    let (lab, app, _truepeer) = served(&["--workers", "1", "--header-timeout", "60s"])?;
    let pending: Vec<_> = (0..200)
        .map(|_| lab.balancer(b"PROXY TCP4 "))
        .collect::<Result<_>>()?;
    let mut balancer = lab.balancer_to(HOST.v6(TRUEPEER_PORT), &good(Version::V1))?;
    let (mut stream, peer) = app.accept()?;
    assert_eq!(peer, CLIENT.v4(CLIENT_PORT));
    stream.write_all(b"served\n")?;
    ensure!(read_line(&mut balancer)? == "served");
    app.saw_nobody()?;
    drop(pending);
    Ok(())
}
