//! Packets of anybody: random ones, and good ones with bytes changed, cut off or put in.

use anyhow::{Context, Result, ensure};

use super::bench::{Bench, DROP, FAMILIES, NEXT, Packet, REDIRECT};
use super::first::Handshake;
use super::frame::{ETHERNET, ack, from_to, lengthen_ip, syn};
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, OTHER_CLIENT};
use crate::lab::forge::{ACK, PSH, SYN, SYN_OPTIONS};
use crate::lab::header::Version;
use crate::lab::path::Path;
use crate::lab::random::Random;
use crate::lab::scale::scaled;

const SEED: u64 = 0x7472_7565_7065_6572;

/// Which have got somewhere, or the packets were too wild.
const MOVED: [&str; 8] = [
    "direct_syn",
    "direct_handshake",
    "direct_up",
    "direct_failed",
    "to_daemon_syn",
    "to_daemon_header",
    "to_daemon_split",
    "to_daemon_listener",
];

/// No program does anything but what it may, and nobody's flow is changed.
#[test]
fn packets_change_no_flow() -> Result<()> {
    let bench = Bench::start(Path::Direct)?;
    let good = good(&bench)?;
    let before = bench.flows()?;
    ensure!(before.0.len() == 2 && before.1.len() == 2, "{before:?}");
    let programs = [
        ("direct", bench.uplink),
        ("direct", bench.uplink),
        ("direct", bench.uplink),
        ("reply", bench.uplink),
        ("reply_remote", bench.uplink),
        ("inject", bench.device),
    ];
    let moved = bench.moved(|| {
        run_many(&bench, &programs, &good, scaled(8500, 850_000))?;
        bench.as_if_bare(|| run_many(&bench, &programs[..1], &good, scaled(1500, 150_000)))
    })?;
    ensure!(
        bench.flows()? == before,
        "a flow has changed: seed {SEED:#x}"
    );
    let missing: Vec<_> = MOVED.iter().filter(|name| !moved.contains(name)).collect();
    ensure!(missing.is_empty(), "nothing has moved {missing:?}");
    for talk in bench.talks {
        { talk }.ping_pong(4, 1000)?;
    }
    Ok(())
}

#[test]
fn packets_are_refused_or_go_on() -> Result<()> {
    let bench = Bench::start(Path::Daemon)?;
    let made: Vec<_> = FAMILIES
        .iter()
        .flat_map(|family| [syn(*family, 28_100), ack(*family, 28_101)])
        .map(|segment| bench.frame(&segment))
        .collect();
    let programs = [("refuse", bench.uplink)];
    let run = || run_many(&bench, &programs, &made, scaled(1000, 500_000));
    run()?;
    bench.as_if_bare(run)
}

fn run_many(
    bench: &Bench,
    programs: &[(&'static str, u32)],
    good: &[Vec<u8>],
    count: u32,
) -> Result<()> {
    eprintln!("seed {SEED:#x}");
    let mut random = Random::new(SEED);
    bench.lab.host.enter(|| {
        for number in 0..count {
            let frame = make(&mut random, good);
            let (program, device) = *random.pick(programs);
            let packet = Packet {
                frame: &frame,
                device,
                mark: 0,
            };
            let ran = bench
                .run_here(program, packet)
                .with_context(|| format!("number {number}, {program}: {frame:02x?}"))?;
            let is_allowed = [NEXT, DROP, REDIRECT].contains(&ran.code);
            ensure!(is_allowed, "{program} returned {}: {frame:02x?}", ran.code);
        }
        Ok(())
    })
}

/// Of each kind that the programs look into.
fn good(bench: &Bench) -> Result<Vec<Vec<u8>>> {
    let mut good = Vec::new();
    for (port, family) in (28_000..).step_by(10).zip(FAMILIES) {
        let handshake = Handshake::start(bench, family, port, SYN_OPTIONS)?;
        let (client, front) = (family(CLIENT, port), family(FRONT, FRONT_PORT));
        let talk = bench.talk(family);
        let (balancer, service) = (talk.balancer.local_addr()?, talk.balancer.peer_addr()?);
        for version in Version::BOTH {
            let header = version.header(client, front);
            good.push(bench.frame(&handshake.next(ACK | PSH, &header)));
        }
        let mut steered = bench.steered(family)?;
        let at_the_veth = [proxy_common::VETH_MAC; 2];
        good.extend([
            bench.frame(&syn(family, port + 1)),
            bench.frame(&ack(family, port + 2)),
            bench.frame(&handshake.next(ACK, b"")),
            bench.frame(&from_to(balancer, service, ACK)),
            bench.frame(&from_to(balancer, service, SYN)),
            bench.frame(&from_to(steered, family(OTHER_CLIENT, port), ACK)),
            from_to(client, steered, SYN).frame(at_the_veth),
        ]);
        steered.set_port(APP_PORT + 1);
        good.push(from_to(client, steered, SYN).frame(at_the_veth));
    }
    let longer: Vec<_> = good.iter().cloned().map(lengthen_ip).collect();
    good.extend(longer);
    Ok(good)
}

fn make(random: &mut Random, good: &[Vec<u8>]) -> Vec<u8> {
    if random.happens(50) {
        return noise(random);
    }
    let mut frame = random.pick(good).clone();
    for _ in 0..random.word() % 4 {
        mutate(random, &mut frame);
    }
    // The kernel runs no program with less than an IP header.
    let ip = if frame[12..14] == [0x86, 0xdd] {
        40
    } else {
        20
    };
    let least = frame.len().max(ETHERNET + ip);
    frame.resize(least, 0);
    frame
}

fn noise(random: &mut Random) -> Vec<u8> {
    let length = ETHERNET + 40 + random.below(200);
    let mut frame: Vec<u8> = std::iter::repeat_with(|| random.byte())
        .take(length)
        .collect();
    let ethertype: &[u8; 2] = random.pick(&[[0x08, 0], [0x86, 0xdd]]);
    frame[12..14].copy_from_slice(ethertype);
    frame
}

fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    let place = random.below(frame.len());
    match random.word() % 6 {
        0 => frame[place] = random.byte(),
        1 => frame[place] ^= 1 << random.below(8),
        2 => frame[place] = *random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
        3 => frame.truncate(place.max(ETHERNET)),
        4 => frame.insert(place, random.byte()),
        _ => frame.extend(std::iter::repeat_n(0xaa, place)),
    }
}
