//! The lab's tools do what they say, without truepeer: what a test takes for a bad network or a
//! forger is one.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, ensure};

use crate::lab::addr::{APP_PORT, BALANCER, CLIENT, HOST, OTHER_CLIENT, Pair, WILDCARD};
use crate::lab::app::{App, Echo};
use crate::lab::counters::tcp;
use crate::lab::datagram;
use crate::lab::flood::Flood;
use crate::lab::forge::{ACK, Checksum, SYN, Segment};
use crate::lab::leaks::Leaks;
use crate::lab::lossy::{Counted, Faults, Mangle, Nature};
use crate::lab::mangle;
use crate::lab::poll;
use crate::lab::spray::{NOBODYS, Spray};
use crate::lab::stream::round_trip;
use crate::lab::talk::{Side, Talk};
use crate::lab::tuntap::Layer;
use crate::lab::wire::Wire;
use crate::lab::{Lab, may_stay};
use crate::steering::devices::tun_uplink;

/// One MiB each way in both families, from the balancer to an app of the host, over a wire in the
/// place of the uplink.
fn over(nature: Nature) -> Result<Counted> {
    let lab = Lab::new()?;
    let wire = lab.rewire_uplink(nature)?;
    let app = App::listen(&lab.host, WILDCARD.v6(APP_PORT))?;
    for to in HOST.both(APP_PORT) {
        let balancer = lab.edge.connect_from(BALANCER.like(to, 0), to)?;
        let (app, peer) = app.accept()?;
        assert_eq!(peer.ip(), BALANCER.like(to, 0).ip());
        Talk { balancer, app }.transfer(&Side::BOTH, 1 << 20)?;
    }
    Ok(wire.counted())
}

#[test]
fn a_sound_wire_loses_nothing() -> Result<()> {
    for layer in [Layer::Tap, Layer::Tun] {
        let counted = over(Nature::sound(layer))?;
        ensure!(counted.passed > 1000, "{counted:?}");
        let nothing_else = Counted {
            passed: counted.passed,
            ..Counted::default()
        };
        assert_eq!(counted, nothing_else);
    }
    Ok(())
}

#[test]
fn a_lossy_wire_does_what_it_is_told() -> Result<()> {
    let counted = over(Nature {
        faults: Faults {
            lost: 30,
            doubled: 30,
            late: 30,
        },
        ..Nature::sound(Layer::Tap)
    })?;
    let Counted {
        passed,
        lost,
        doubled,
        late,
        mangled,
    } = counted;
    for fault in [lost, doubled, late] {
        // around 3 %, and by no chance a tenth or ten times of it
        ensure!(fault * 300 > passed && fault * 3 < passed, "{counted:?}");
    }
    assert_eq!(mangled, 0);
    Ok(())
}

#[test]
fn mangled_packets_are_still_right() -> Result<()> {
    const ALL: [(&str, Mangle); 3] = [
        ("fragments", mangle::fragment),
        ("IP options", mangle::ip_options),
        ("timestamps first", mangle::timestamps_first),
    ];
    for (what, mangle) in ALL {
        let counted = over(Nature {
            mangle: Some(mangle),
            ..Nature::sound(Layer::Tap)
        });
        let counted = counted.context(what)?;
        ensure!(counted.mangled > 1000, "{what}: {counted:?}");
    }
    Ok(())
}

/// A balancer that is one router away has such a wire, too.
#[test]
fn clients_have_wires_as_well() -> Result<()> {
    let lab = Lab::new()?;
    let wire = lab.rewire_clients(Nature::sound(Layer::Tap))?;
    let _app = Echo::start(&lab.host, WILDCARD.v6(APP_PORT))?;
    for to in HOST.both(APP_PORT) {
        let mut stream = lab.client.connect_from(OTHER_CLIENT.like(to, 0), to)?;
        round_trip(&mut stream, b"hello")?;
    }
    ensure!(wire.counted().passed > 0);
    Ok(())
}

/// Each number that was sent arrives in order, for this host alone and with a checksum that holds.
#[test]
fn a_spray_arrives() -> Result<()> {
    const COUNT: u32 = 1000;
    for family in [Pair::v4, Pair::v6] {
        let lab = Lab::new()?;
        let (from, to) = (family(BALANCER, 999), family(HOST, APP_PORT));
        let numbered = |number| Segment {
            number,
            flags: SYN,
            ..Segment::between(from, to)
        };
        let mut wire = Wire::tap(&lab.host, APP_PORT)?;
        let spray = Spray::onto(&lab.edge, "host", lab.host.mac("edge")?)?;
        let sent = spray.send((0..COUNT).map(numbered))?;
        assert_eq!(sent, u64::from(COUNT));
        let seen = wire.connections()?.iter().map(|one| one.next());
        ensure!(seen.eq(1..=COUNT), "they came otherwise");
        assert_eq!(tcp(&lab.host, "InCsumErrors")?, 0);
        ensure!(tcp(&lab.host, "OutRsts")? > 0, "nobody heard them");
    }
    Ok(())
}

#[test]
fn wrong_checksums_are_wrong_and_nobodys_frames_are_nobodys() -> Result<()> {
    for family in [Pair::v4, Pair::v6] {
        let lab = Lab::new()?;
        let (from, to) = (family(BALANCER, 999), family(HOST, APP_PORT));
        let wrong = Segment {
            flags: ACK,
            checksum: Checksum::Wrong,
            ..Segment::between(from, to)
        };
        let right = Segment {
            checksum: Checksum::Right,
            ..wrong
        };
        let (hosts, nobodys) = (lab.host.mac("edge")?, NOBODYS);
        Spray::onto(&lab.edge, "host", hosts)?.send([wrong])?;
        poll::until("the wrong checksum to be counted", || {
            Ok((tcp(&lab.host, "InCsumErrors")? == 1).then_some(()))
        })?;
        Spray::onto(&lab.edge, "host", nobodys)?.send([right; 8])?;
        Spray::onto(&lab.edge, "host", hosts)?.send([right])?;
        poll::until("an answer to the right one", || {
            Ok((tcp(&lab.host, "OutRsts")? > 0).then_some(()))
        })?;
        assert_eq!(tcp(&lab.host, "OutRsts")?, 1);
    }
    Ok(())
}

#[test]
fn a_flood_is_many_syns() -> Result<()> {
    let lab = Lab::new()?;
    let to = HOST.v4(APP_PORT);
    let mut wire = Wire::tap(&lab.host, APP_PORT)?;
    let spray = Spray::onto(&lab.edge, "host", lab.host.mac("edge")?)?;
    let sources = vec!["192.0.2.1".parse()?, "192.0.2.2".parse()?];
    let flood = Flood::start(spray, sources.clone(), to, 1);
    flood.wait_more(5000)?;
    flood.stop()?;
    let seen = wire.connections()?;
    ensure!(seen.len() > 50, "{} SYNs came", seen.len());
    for source in sources {
        let his = |addr: SocketAddr| addr.ip() == source;
        ensure!(seen.iter().any(|one| his(one.source)), "none of {source}");
    }
    Ok(())
}

/// Of a flood.
const ONE_OF_MANY: Pair = Pair::new([198, 19, 0, 9], [0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 9]);

/// Not only with a steer address: also whatever goes to a client by itself, or comes from one.
#[test]
fn a_packet_for_a_client_is_a_leak() -> Result<()> {
    for family in [Pair::v4, Pair::v6] {
        let lab = Lab::new()?;
        // Straight onto the link: nobody has to be asked for an address first.
        let spray = Spray::onto(&lab.host, "edge", lab.edge.mac("host")?)?;
        for client in [CLIENT, OTHER_CLIENT, ONE_OF_MANY] {
            let (host, client) = (family(HOST, APP_PORT), family(client, 41000));
            for (from, to) in [(host, client), (client, family(BALANCER, 999))] {
                let leaks = Leaks::watch(&lab.edge)?;
                let segment = Segment {
                    flags: ACK,
                    ..Segment::between(from, to)
                };
                spray.send([segment])?;
                let said = leaks.saw_none().map_err(|error| error.to_string());
                let leak = format!("{} > {}", from.ip(), to.ip());
                ensure!(said.is_err_and(|error| error.contains(&leak)), "{leak}");
            }
        }
    }
    Ok(())
}

/// Be it without Ethernet, and whether somebody asks or not.
#[test]
fn a_leak_by_a_tun_is_one_and_nobody_needs_to_ask() -> Result<()> {
    for family in [Pair::v4, Pair::v6] {
        let lab = Lab::new()?;
        let _wire = tun_uplink(&lab)?;
        for asks in [true, false] {
            let leaks = Leaks::watch(&lab.edge)?;
            let before = received(&lab, "bare")?;
            datagram::socket(&lab.host, family(HOST, 0))?.send_to(b"hello", family(CLIENT, 1))?;
            poll::until("it to come by the tun", || {
                Ok((received(&lab, "bare")? > before).then_some(()))
            })?;
            let has_failed = match asks {
                true => leaks.saw_none().is_err(),
                false => catch_unwind(AssertUnwindSafe(|| drop(leaks))).is_err(),
            };
            ensure!(has_failed, "asked: {asks}");
        }
    }
    Ok(())
}

/// How many packets the edge has got by one of its devices.
fn received(lab: &Lab, device: &str) -> Result<u64> {
    let table = lab
        .edge
        .enter(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
    let start = format!("{device}:");
    let mut lines = table.lines();
    let counts = lines.find_map(|line| line.trim().strip_prefix(&start));
    let packets = counts.and_then(|counts| counts.split_whitespace().nth(1));
    Ok(packets.context("a count")?.parse()?)
}

#[test]
fn a_control_socket_may_stay_only_if_nobody_listens_at_it() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let [control, keeper] = ["x.sock", "x.keeper.sock"].map(|name| directory.path().join(name));
    let listening = UnixListener::bind(&control)?;
    assert!(!may_stay(&control), "somebody listens");
    drop(listening);
    // A process that another test starts has it as well, until it is that test's program.
    poll::until("nobody to listen any more", || {
        Ok(may_stay(&control).then_some(()))
    })?;
    drop(UnixListener::bind(&keeper)?);
    assert!(!may_stay(&keeper), "a keeper ends in order");
    Ok(())
}
