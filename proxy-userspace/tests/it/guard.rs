//! `--guard`: who is no balancer gets no further than the device's driver.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::allowlist::both;
use crate::lab::addr::{BALANCER, CLIENT, HOST, NEIGHBOUR};
use crate::lab::path::Path;
use crate::lab::served::{GAME, SSH, Served, Site, go_on, player, plays};
use crate::lab::talk::Talk;
use crate::lab::{Lab, datagram, poll};
use crate::reload::by_both_paths;

by_both_paths! {
    drops_who_is_no_balancer;
    follows_the_list;
    is_handed_on_and_goes_with_the_last;
    comes_and_goes_by_a_reload;
    nothing_is_lost_behind_it;
}

/// What is counted where a service is guarded.
pub const COUNTED: [&str; 2] = ["guard_syn", "guard_datagram"];

/// The host's side of the link to the balancers.
const UPLINK: &str = "edge";
const GUARDED: &str = "guard = [\"edge\"]";
const SSH_GUARDED: Served = Served {
    keys: GUARDED,
    ..SSH
};
const GAME_GUARDED: Served = Served {
    keys: GUARDED,
    ..GAME
};
/// Long enough for a reset to come, and for one SYN more.
const SILENCE: Duration = Duration::from_millis(1500);

impl Site {
    /// The devices that are guarded, as `status` has it.
    fn guards(&self) -> Result<Vec<String>> {
        let status = self.lab.shown("status")?;
        let guards = status["guards"].as_array().context("guards")?;
        let each = guards.iter().map(|guard| {
            let text = |key: &str| guard[key].as_str().unwrap_or_default().to_owned();
            let shown = format!("{}: {}", text("device"), text("mode"));
            match text("problem") {
                none if none.is_empty() => shown,
                problem => format!("{shown}, {problem}"),
            }
        });
        Ok(each.collect())
    }
}

fn hears_nothing(lab: &Lab, source: SocketAddr, port: u16) -> Result<()> {
    let to = HOST.like(source, port);
    match lab.edge.connect_within(source, to, SILENCE) {
        Ok(_) => anyhow::bail!("{source} got in"),
        Err(error) => ensure!(error.kind() == ErrorKind::TimedOut, "{source}: {error}"),
    }
    Ok(())
}

fn has_xdp(lab: &Lab, device: &str) -> Result<bool> {
    let shown = lab.host.run(&format!("ip -d link show dev {device}"))?;
    Ok(shown.contains("prog/xdp"))
}

fn drops_who_is_no_balancer(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let (_ssh, games) = (SSH.echoes(lab)?, GAME.players(lab)?);
    let web = Served {
        port: 7001,
        target_port: 8081,
        name: "web",
        ..SSH
    };
    let _web = web.echoes(lab)?;
    let truepeer = site.start(&[SSH_GUARDED, web, GAME_GUARDED])?;
    truepeer.wait_line("guarding edge by native XDP")?;
    ensure!(site.guards()? == ["edge: native"], "{:?}", site.guards()?);
    site.asked(&["status"], "guard at edge: native XDP")?;

    SSH.serves(lab)?;
    both(NEIGHBOUR, |source| hears_nothing(lab, source, SSH.port))?;
    let syns = site.counted("guard_syn")?;
    ensure!(syns >= 2, "{syns} SYNs");
    ensure!(site.counted("dispatch_refused")? == 0, "one came further");
    // A service that isn't guarded resets.
    both(NEIGHBOUR, |source| {
        let to = HOST.like(source, web.port);
        let error = lab.edge.connect_from(source, to).err().context("let in")?;
        ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error}");
        Ok(())
    })?;

    for (source, game) in BALANCER.both(0).into_iter().zip(&games) {
        plays(&player(lab, source, GAME)?, game)?;
    }
    let before = site.counted("datagram_refused")?;
    for source in NEIGHBOUR.both(0) {
        let other = player(lab, source, GAME)?;
        let header = datagram::v2(CLIENT.like(source, 1000), HOST.like(source, 1), &[]);
        for _ in 0..8 {
            other.send(&header)?;
        }
    }
    poll::until("datagrams to be dropped", || {
        Ok((site.counted("guard_datagram")? == 16).then_some(()))
    })?;
    ensure!(
        site.counted("datagram_refused")? == before,
        "some came further"
    );
    Ok(())
}

fn follows_the_list(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let _ssh = SSH.echoes(lab)?;
    let _truepeer = site.start(&[SSH_GUARDED])?;
    let [v4, v6] = NEIGHBOUR.both(0).map(|at| at.ip().to_string());
    both(NEIGHBOUR, |source| hears_nothing(lab, source, SSH.port))?;
    lab.allow(&["add", &v4, &v6, "--service", "ssh"])?
        .expect(0, &[])?;
    let mut talks = both_talk(&site)?;
    lab.allow(&["remove", &v4, &v6, "--service", "ssh"])?
        .expect(0, &[])?;
    both(NEIGHBOUR, |source| hears_nothing(lab, source, SSH.port))?;
    // What is open goes on.
    go_on(&mut talks)
}

fn both_talk(site: &Site) -> Result<[std::net::TcpStream; 2]> {
    let [v4, v6] = NEIGHBOUR.both(0);
    Ok([site.talk(v4, SSH)?, site.talk(v6, SSH)?])
}

fn is_handed_on_and_goes_with_the_last(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let _ssh = SSH.echoes(lab)?;
    let mut first = site.start(&[SSH_GUARDED])?;
    let mut talks = site.talks(SSH)?;
    let mut second = site.take_over()?;
    ensure!(site.guards()? == ["edge: native"], "{:?}", site.guards()?);
    go_on(&mut talks)?;
    SSH.serves(lab)?;
    drop(talks);
    first.wait_exit()?;
    both(NEIGHBOUR, |source| hears_nothing(lab, source, SSH.port))?;
    ensure!(has_xdp(lab, UPLINK)?, "it went with the first one");
    second.signal(Signal::TERM)?;
    second.wait_exit()?;
    ensure!(!has_xdp(lab, UPLINK)?, "it stays");

    let mut killed = site.start(&[SSH_GUARDED])?;
    ensure!(has_xdp(lab, UPLINK)?, "none");
    killed.signal(Signal::KILL)?;
    killed.wait_exit()?;
    poll::until("it to go with a killed one", || {
        Ok((!has_xdp(lab, UPLINK)?).then_some(()))
    })
}

fn comes_and_goes_by_a_reload(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let _ssh = SSH.echoes(lab)?;
    let _truepeer = site.start(&[SSH])?;
    let mut talks = site.talks(SSH)?;
    ensure!(!has_xdp(lab, UPLINK)?, "guarded without being asked");
    site.reload(&[SSH_GUARDED], &["changed ssh: guard"])?;
    go_on(&mut talks)?;
    both(NEIGHBOUR, |source| hears_nothing(lab, source, SSH.port))?;
    let later = Served {
        keys: "guard = [\"edge\", \"later\"]",
        ..SSH
    };
    site.reload(&[later], &["changed ssh: guard"])?;
    let absent = "later: none, there is no device later: it is guarded once it is there";
    ensure!(
        site.guards()? == ["edge: native", absent],
        "{:?}",
        site.guards()?
    );
    lab.host.ip("link add later type bridge")?;
    poll::until("the device that comes to be guarded", || {
        let guards = site.guards()?;
        Ok((guards == ["edge: native", "later: generic"]).then_some(()))
    })?;
    lab.host.ip("link set later name other")?;
    poll::until("the device of another name to be left", || {
        Ok((site.guards()? == ["edge: native", absent] && !has_xdp(lab, "other")?).then_some(()))
    })?;
    lab.host.ip("tuntap add dev later mode tun")?;
    poll::until("the device that can't be guarded to be told", || {
        let guards = site.guards()?;
        let problem = "later: none, later has no Ethernet header";
        Ok((guards.len() == 2 && guards[1].starts_with(problem)).then_some(()))
    })?;
    site.reload(&[SSH], &["changed ssh: guard"])?;
    ensure!(!has_xdp(lab, UPLINK)?, "it stays");
    ensure!(site.guards()?.is_empty(), "{:?}", site.guards()?);
    go_on(&mut talks)
}

fn nothing_is_lost_behind_it(path: Path) -> Result<()> {
    let lab = Lab::new()?;
    let app = crate::lab::app::App::listen(&lab.host, crate::lab::addr::LOOPBACK.v4(8080))?;
    let _truepeer = lab
        .truepeer()
        .args(path.args())
        .args(["--guard", UPLINK])
        .start()?;
    let client = CLIENT.v4(41_000);
    let mut talk = Talk::open(&lab, &app, client, crate::lab::header::Version::V2)?;
    talk.warm_up(&lab, path)?;
    talk.bulk()
}

#[test]
fn somebody_else_s_program_is_left_alone() -> Result<()> {
    let site = Site::new(Path::Direct)?;
    let lab = &site.lab;
    let _ssh = SSH.echoes(lab)?;
    let _truepeer = site.start(&[SSH_GUARDED])?;
    let other = || {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let second = lab.truepeer().listen([at("198.51.100.2:7009")]);
        second.instance_suffix("b")
    };
    let taken = "edge has a program of XDP already, somebody else's";
    let guards = other().args(["--guard", UPLINK]);
    guards.run_to_end()?.expect(1, &[taken, "--guard"])?;
    guards.check()?.expect(1, &[taken])?;
    ensure!(site.guards()? == ["edge: native"], "{:?}", site.guards()?);
    let _unguarded = other().start()?;
    let shown = other().args(["--guard", "nowhere"]).check()?;
    shown.expect(0, &["there is no device nowhere"])?;
    SSH.serves(lab)
}

#[test]
fn outsiders_cant_be_let_through_and_dropped() -> Result<()> {
    let lab = Lab::new()?;
    let both = ["--guard", UPLINK, "--outsiders", "app"];
    let said = lab.truepeer().args(both).run_to_end()?;
    said.expect(2, &["--guard drops whom --outsiders app lets through"])
}
