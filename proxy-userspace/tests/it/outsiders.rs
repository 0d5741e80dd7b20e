//! Services of TCP at the application's own port: balancers' connections are unwrapped, and everybody else's are the
//! application's as before.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};

use crate::allowlist::both;
use crate::lab::Lab;
use crate::lab::addr::{
    BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, NEIGHBOUR, OTHER_CLIENT, WILDCARD,
};
use crate::lab::app::Echo;
use crate::lab::haproxy::HaProxy;
use crate::lab::header::Version;
use crate::lab::path::Path;
use crate::lab::served::{SSH, Served, Site, WEB, go_on};
use crate::lab::server::Sshd;
use crate::lab::stream::{expect, expect_cut, read_greeting};
use crate::lab::truepeer::Truepeer;
use crate::reload::by_both_paths;

by_both_paths! {
    each_comes_as_who_they_are;
    a_take_over_cuts_neither;
    a_drain_is_for_balancers;
    a_client_may_have_a_balancer_s_address;
    this_host_is_no_balancer;
    nobody_gets_to_the_daemon_s_own_socket;
    sshd_at_its_own_port;
}

/// What others than balancers are counted as.
pub const COUNTED: &str = "dispatch_outsider";

const PORT: u16 = 22;
const APP: &str = "outsiders = \"app\"";

/// Its application is at the host's address, or at every one.
const AT_THE_HOST: Served = Served {
    port: PORT,
    target: HOST,
    target_port: PORT,
    keys: APP,
    ..SSH
};
const ON_LOOPBACK: Served = Served {
    target: LOOPBACK,
    ..AT_THE_HOST
};

/// Who connects by no balancer.
fn outsider(lab: &Lab, source: SocketAddr) -> Result<TcpStream> {
    let mut stream = lab
        .client
        .connect_from(source, HOST.like(source, PORT))
        .with_context(|| format!("{source} connects to the application"))?;
    let (own, seen) = (stream.local_addr()?, read_greeting(&mut stream)?);
    ensure!(seen == own, "the application sees {seen}, not {own}");
    Ok(stream)
}

fn outsiders(lab: &Lab) -> Result<[TcpStream; 2]> {
    let [v4, v6] = CLIENT.both(0);
    Ok([outsider(lab, v4)?, outsider(lab, v6)?])
}

/// Applications that hear every address, as most do.
fn everywhere(lab: &Lab) -> Result<Echo> {
    Echo::greeting(&lab.host, WILDCARD.v6(PORT))
}

/// On the list of balancers, or off it.
fn listed(lab: &Lab, verb: &str, who: SocketAddr) -> Result<()> {
    let address = who.ip().to_string();
    lab.allow(&[verb, &address, "--service", "ssh"])?
        .expect(0, &[])
}

/// By flags, with an application on loopback.
fn by_flags(lab: &Lab, listen: [SocketAddr; 2]) -> Truepeer {
    let [v4, v6] = LOOPBACK.both(PORT).map(|at| at.to_string());
    let truepeer = lab.truepeer().no_targets().listen(listen);
    truepeer.args(["--target4", &v4, "--target6", &v6, "--outsiders", "app"])
}

fn each_comes_as_who_they_are(path: Path) -> Result<()> {
    for service in [AT_THE_HOST, ON_LOOPBACK] {
        let site = Site::new(path)?;
        let lab = &site.lab;
        let _at_the_host;
        let _everywhere;
        if service.target.v4 == HOST.v4 {
            _at_the_host = service.echoes(lab)?;
        } else {
            _everywhere = everywhere(lab)?;
        }
        let truepeer = site.start(&[service])?;
        let mut talks = site.talks(service)?;
        let mut direct = outsiders(lab)?;
        for talk in &talks {
            // The same address and port as a client that a balancer names.
            let port = talk.local_addr()?.port();
            let mut same = outsider(lab, CLIENT.like(talk.local_addr()?, port))?;
            go_on(std::slice::from_mut(&mut same))?;
        }
        go_on(&mut talks)?;
        go_on(&mut direct)?;
        let kernel = lab.shown("status")?["kernel"].take();
        ensure!(kernel[COUNTED] == 4, "{kernel}");
        site.asked(&["status"], "outsiders go to the application")?;
        drop(truepeer);
        go_on(&mut direct)?;
        outsiders(lab)?;
    }
    Ok(())
}

fn a_take_over_cuts_neither(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let _app = everywhere(lab)?;
    let mut before = site.start(&[ON_LOOPBACK])?;
    let mut talks = site.talks(ON_LOOPBACK)?;
    let mut direct = outsiders(lab)?;
    let _truepeer = site.take_over()?;
    go_on(&mut talks)?;
    go_on(&mut direct)?;
    go_on(&mut site.talks(ON_LOOPBACK)?)?;
    outsiders(lab)?;
    drop(talks);
    before.wait_exit()?;
    go_on(&mut site.talks(ON_LOOPBACK)?)?;
    outsiders(lab)?;

    let alone = Served {
        keys: "",
        port: 7000,
        ..ON_LOOPBACK
    };
    site.reload(&[alone], &["changed ssh: listen, outsiders"])?;
    outsiders(lab)?;
    go_on(&mut site.talks(alone)?)
}

fn a_drain_is_for_balancers(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let _app = everywhere(lab)?;
    let _truepeer = site.start(&[ON_LOOPBACK])?;
    site.asked(&["drain"], "drained all services")?;
    ON_LOOPBACK.refuses(lab)?;
    outsiders(lab)?;
    site.asked(&["undrain"], "")?;
    ON_LOOPBACK.serves(lab)
}

fn a_client_may_have_a_balancer_s_address(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let _app = everywhere(lab)?;
    let _truepeer = site.start(&[ON_LOOPBACK])?;
    both(NEIGHBOUR, |client| {
        let client = SocketAddr::new(client.ip(), 1000);
        listed(lab, "add", client)?;
        let header = Version::V2.header(client, FRONT.like(client, FRONT_PORT));
        let mut balancer = lab.balancer_to(HOST.like(client, PORT), &header)?;
        let seen = read_greeting(&mut balancer)?;
        ensure!(seen == client, "the application sees {seen}");
        go_on(std::slice::from_mut(&mut balancer))?;
        let connections = lab.shown("connections")?;
        let by = &connections[0]["path"];
        ensure!(*by == path.name(), "by {by}");
        listed(lab, "remove", client)
    })
}

fn this_host_is_no_balancer(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let _app = everywhere(lab)?;
    let _truepeer = site.start(&[ON_LOOPBACK])?;
    both(HOST, |own| {
        listed(lab, "add", own)?;
        let to = HOST.like(own, PORT);
        let mut plain = lab.host.connect_from(own, to)?;
        ensure!(
            read_greeting(&mut plain)? == plain.local_addr()?,
            "as another one"
        );
        // The daemon connects for it as itself, and who is behind it can't name another one.
        let header = |client| Version::V2.header(client, FRONT.like(own, FRONT_PORT));
        let named = SocketAddr::new(own.ip(), 1000);
        let mut balancer = lab.balancer_to(to, &header(named))?;
        let seen = read_greeting(&mut balancer)?;
        ensure!(seen.ip() == own.ip(), "the application sees {seen}");
        balancer.write_all(&header(CLIENT.like(own, 1)))?;
        expect(&mut balancer, &header(CLIENT.like(own, 1)))
    })
}

fn nobody_gets_to_the_daemon_s_own_socket(path: Path) -> Result<()> {
    let site = Site::new(path)?;
    let lab = &site.lab;
    let _app = everywhere(lab)?;
    let _truepeer = site.start(&[ON_LOOPBACK])?;
    let listening = lab.host.run("ss -Hltn")?;
    let own = listening.lines().filter_map(|line| {
        let at: SocketAddr = line.split_whitespace().nth(3)?.parse().ok()?;
        (at.ip().is_loopback()).then_some(at)
    });
    let own: Vec<_> = own.collect();
    ensure!(own.iter().any(SocketAddr::is_ipv4), "{listening}");
    ensure!(own.iter().any(SocketAddr::is_ipv6), "{listening}");
    for at in own {
        let source = LOOPBACK.like(at, 0);
        match lab.host.connect_from(source, at) {
            Ok(mut stream) => expect_cut(&mut stream)?,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => return Err(error.into()),
        }
    }
    ensure!(site.open()?.is_empty(), "somebody got in");
    Ok(())
}

fn sshd_at_its_own_port(path: Path) -> Result<()> {
    let lab = Lab::new()?;
    let sshd = Sshd::start(&lab.host, WILDCARD.v6(PORT))?;
    let truepeer = by_flags(&lab, WILDCARD.both(PORT));
    let _truepeer = truepeer.args(path.args()).start()?;
    let _edge = HaProxy::start(&lab.edge, "send-proxy-v2", HOST.v4(PORT))?;
    both(CLIENT, |client| {
        let front = FRONT.like(client, FRONT_PORT);
        let administrator = OTHER_CLIENT.like(client, 0);
        for (source, to) in [(client, front), (administrator, HOST.like(client, PORT))] {
            let said = sshd.login(&lab.client, source, to, "echo $SSH_CONNECTION")?;
            let ip = source.ip();
            ensure!(said.starts_with(&format!("{ip} ")), "{said}");
            sshd.wait_line(&format!("Accepted publickey for root from {ip} port "))?;
        }
        Ok(())
    })
}

#[test]
fn the_port_that_is_given_up_is_the_application_s() -> Result<()> {
    let site = Site::new(Path::Direct)?;
    let lab = &site.lab;
    let _apps = WEB.echoes(lab)?;
    let mut before = site.start(&[WEB])?;
    let mut talks = site.talks(WEB)?;
    let shared = Served { keys: APP, ..WEB };
    site.write("", &[shared])?;
    let stays = "outsiders, at 198.51.100.2:443: that can't change while it runs";
    site.asks(&[], 1, &[stays, "run --take-over"])?;
    let _truepeer = site.take_over()?;
    before.wait_exit()?;
    go_on(&mut talks)?;
    let _theirs = Echo::greeting(&lab.host, HOST.v4(WEB.port))?;
    let mut theirs = lab.client.connect_from(CLIENT.v4(0), HOST.v4(WEB.port))?;
    ensure!(
        read_greeting(&mut theirs)? == theirs.local_addr()?,
        "as another one"
    );
    go_on(&mut site.talks(shared)?)
}

#[test]
fn two_instances_at_one_address_are_refused() -> Result<()> {
    let lab = Lab::new()?;
    let at = |listen: [SocketAddr; 2], target: &str| {
        let truepeer = lab.truepeer().no_targets().listen(listen);
        truepeer.args(["--target4", target, "--on-no-target", "unspoofed"])
    };
    let first = at(HOST.both(PORT), "127.0.0.1:22");
    let truepeer = first.args(["--outsiders", "app"]).start()?;
    for flags in [&["--outsiders", "app"][..], &[]] {
        let second = at(WILDCARD.both(PORT), "127.0.0.1:8080").args(flags);
        let second = second.instance_suffix("b").run_to_end()?;
        let says = [
            lab.instance(),
            " listens at 0.0.0.0:22 as well",
            "another port",
        ];
        second.expect(2, &says)?;
    }
    // A target of one's, where the other one listens.
    let elsewhere = || at(HOST.both(7009), "198.51.100.2:22").instance_suffix("b");
    let said = elsewhere().run_to_end()?;
    said.expect(2, &[lab.instance(), "at target 198.51.100.2:22"])?;
    drop(truepeer);
    let _first = elsewhere().start()?;
    let second = at(WILDCARD.both(PORT), "127.0.0.1:8080").args(["--outsiders", "app"]);
    second.run_to_end()?.expect(2, &["or has its target there"])
}

#[test]
fn is_told_what_becomes_of_headers_without_truepeer() -> Result<()> {
    let lab = Lab::new()?;
    let _app = everywhere(&lab)?;
    let left = "198.51.100.2:22 is left to the application";
    by_flags(&lab, HOST.both(PORT))
        .check()?
        .expect(0, &[left, "headers reach it"])?;
    let nowhere = by_flags(&lab, BALANCER.both(PORT)).check()?;
    nowhere.expect(1, &["198.51.100.1:22 is not an address of this host"])
}

#[test]
fn a_port_is_left_to_the_application_at_all_addresses_or_none() -> Result<()> {
    let site = Site::new(Path::Direct)?;
    let service = |name: &str, listen: &str, outsiders: &str| {
        format!(
            "[[service]]\nname = \"{name}\"\nlisten = [\"{listen}:22\"]\ntarget4 = \"127.0.0.1:8080\"\n\
             allow = [\"198.51.100.1\"]\noutsiders = \"{outsiders}\"\n"
        )
    };
    let everywhere = |outsiders| service("all", "0.0.0.0", outsiders);
    let here = |outsiders| service("here", "198.51.100.2", outsiders);
    let check = |text: String| {
        fs::write(&site.file, text)?;
        let file = site.file.to_str().context("UTF-8")?;
        site.lab
            .truepeer_raw(&["check", "--config-only", "-c", file])
    };
    check(everywhere("app") + &here("app"))?.expect(0, &[])?;
    for (all, one) in [("app", "refuse"), ("refuse", "app")] {
        let said = check(everywhere(all) + &here(one))?;
        said.expect(
            2,
            &[
                "outsiders are the application's at ",
                "give both services the same",
            ],
        )?;
    }
    Ok(())
}
