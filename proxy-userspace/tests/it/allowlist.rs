//! Who may connect, and who may say so.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::{NamedTempFile, TempDir};

use crate::lab::addr::{
    APP_PORT, BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, NEIGHBOUR, Pair, TRUEPEER_PORT,
};
use crate::lab::app::Echo;
use crate::lab::header::Version;
use crate::lab::netns::Netns;
use crate::lab::proc::Proc;
use crate::lab::scale::scaled;
use crate::lab::stream::{read_greeting, round_trip};
use crate::lab::truepeer::Truepeer;
use crate::lab::{Lab, PINS};

/// Served, from `source`?
pub fn served(lab: &Lab, source: SocketAddr) -> Result<()> {
    served_at(lab, source, TRUEPEER_PORT)
}

pub fn served_at(lab: &Lab, source: SocketAddr, port: u16) -> Result<()> {
    let target = HOST.like(source, port);
    let mut balancer = lab
        .edge
        .connect_from(source, target)
        .with_context(|| format!("connecting from {source}"))?;
    let client = CLIENT.like(source, 0);
    // the balancer's port: no two connections have the same
    let client = SocketAddr::new(client.ip(), balancer.local_addr()?.port());
    let header = Version::V2.header(client, FRONT.like(client, FRONT_PORT));
    balancer.write_all(&header)?;
    assert_eq!(read_greeting(&mut balancer)?, client);
    Ok(())
}

/// [G-2] [SEC-1] Not even connected: the source can't tell the listener from a port where nobody
/// listens, as the kernel answers a SYN for which the lookup finds nothing with a reset.
pub fn refused(netns: &Netns, source: SocketAddr) -> Result<()> {
    refused_at(netns, source, TRUEPEER_PORT)
}

pub fn refused_at(netns: &Netns, source: SocketAddr, port: u16) -> Result<()> {
    let target = HOST.like(source, port);
    match netns.connect_from(source, target) {
        Ok(_) => bail!("{source} could connect"),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error).context(format!("{source} was not refused")),
    }
}

pub fn both(pair: Pair, check: impl Fn(SocketAddr) -> Result<()>) -> Result<()> {
    pair.both(0).into_iter().try_for_each(check)
}

pub fn lab_with_echo() -> Result<(Lab, Echo, Echo)> {
    let lab = Lab::new()?;
    let v4 = Echo::greeting(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let v6 = Echo::greeting(&lab.host, LOOPBACK.v6(APP_PORT))?;
    Ok((lab, v4, v6))
}

pub fn stop(mut truepeer: Proc) -> Result<()> {
    truepeer.signal(Signal::TERM)?;
    assert_eq!(truepeer.wait_exit()?.code(), Some(0));
    Ok(())
}

/// [SEC-2] Nor by naming the balancer as their client: not a byte of theirs is read.
#[test]
fn outsiders_cannot_even_connect() -> Result<()> {
    let (lab, _v4, _v6) = lab_with_echo()?;
    let _truepeer = lab.truepeer().start()?;
    both(NEIGHBOUR, |source| refused(&lab.edge, source))?;
    both(CLIENT, |source| refused(&lab.client, source))?;
    both(BALANCER, |source| served(&lab, source))
}

#[test]
fn other_ports_of_the_host_are_not_concerned() -> Result<()> {
    let (lab, _v4, _v6) = lab_with_echo()?;
    let _truepeer = lab.truepeer().start()?;
    let _other = Echo::greeting(&lab.host, HOST.v4(9000))?;
    let mut stream = lab.client.connect_from(CLIENT.v4(41000), HOST.v4(9000))?;
    assert_eq!(read_greeting(&mut stream)?, CLIENT.v4(41000));
    Ok(())
}

#[test]
fn networks_and_anyone() -> Result<()> {
    let (lab, _v4, _v6) = lab_with_echo()?;
    let truepeer = lab.truepeer();
    let networks = truepeer
        .clone()
        .allow(["198.51.100.0/29", "2001:db8:e::/64"]);
    let running = networks.start()?;
    both(NEIGHBOUR, |source| served(&lab, source))?;
    both(CLIENT, |source| refused(&lab.client, source))?;
    stop(running)?;

    let anyone = truepeer.allow(["0.0.0.0/0", "::/0"]);
    let _running = anyone.start()?;
    both(NEIGHBOUR, |source| served(&lab, source))?;
    both(CLIENT, |source| {
        let target = HOST.like(source, TRUEPEER_PORT);
        lab.client.connect_from(source, target)?;
        Ok(())
    })
}

#[test]
fn changes_take_effect_at_once() -> Result<()> {
    let (lab, _v4, _v6) = lab_with_echo()?;
    let _truepeer = lab.truepeer().start()?;
    for address in [NEIGHBOUR.v4, NEIGHBOUR.v6] {
        let source = SocketAddr::new(address, 0);
        let entry = address.to_string();
        refused(&lab.edge, source)?;
        lab.allow(&["test", &entry])?.expect(1, &["not allowed"])?;

        lab.allow(&["add", &entry])?.expect(0, &[])?;
        served(&lab, source)?;
        lab.allow(&["test", &entry])?.expect(0, &["allowed"])?;
        lab.allow(&["list"])?.expect(0, &[&entry])?;

        lab.allow(&["remove", &entry])?.expect(0, &[])?;
        refused(&lab.edge, source)?;
        lab.allow(&["test", &entry])?.expect(1, &["not allowed"])?;
        let list = lab.allow(&["list"])?;
        list.expect(0, &["198.51.100.1", "2001:db8:e::1"])?;
        ensure!(!list.text.contains(&entry), "{}", list.text);
    }
    both(BALANCER, |source| served(&lab, source))
}

#[test]
fn removing_an_address_leaves_its_open_connections() -> Result<()> {
    let (lab, _v4, _v6) = lab_with_echo()?;
    let _truepeer = lab.truepeer().start()?;
    let header = Version::V2.header(CLIENT.v4(41000), FRONT.v4(FRONT_PORT));
    let mut open = lab.balancer(&header)?;
    assert_eq!(read_greeting(&mut open)?, CLIENT.v4(41000));
    lab.allow(&["remove", "198.51.100.1"])?.expect(0, &[])?;
    refused(&lab.edge, BALANCER.v4(0))?;
    round_trip(&mut open, b"still here")
}

#[test]
fn test_knows_networks() -> Result<()> {
    let lab = Lab::new()?;
    let _truepeer = lab
        .truepeer()
        .allow(["198.51.100.0/29", "2001:db8:e::/64"])
        .start()?;
    for (address, code, answer) in [
        ("198.51.100.7", 0, "allowed"),
        ("198.51.100.8", 1, "not allowed"),
        ("2001:db8:e::ffff", 0, "allowed"),
        ("2001:db8:f::1", 1, "not allowed"),
    ] {
        let said = lab.allow(&["test", address])?;
        said.expect(code, &[answer]).context(address)?;
    }
    Ok(())
}

#[test]
fn the_next_start_adopts_what_was_added_live() -> Result<()> {
    let (lab, _v4, _v6) = lab_with_echo()?;
    let first = lab.truepeer().start()?;
    lab.allow(&["add", "198.51.100.7/32"])?.expect(0, &[])?;
    stop(first)?;

    // with nobody running
    lab.allow(&["test", "198.51.100.7"])?
        .expect(0, &["allowed"])?;
    lab.allow(&["add", "2001:db8:e::7"])?.expect(0, &[])?;
    lab.allow(&["list"])?
        .expect(0, &["198.51.100.7", "2001:db8:e::7"])?;

    let second = lab.truepeer().start()?;
    both(NEIGHBOUR, |source| served(&lab, source))?;
    stop(second)?;

    lab.allow(&["remove", "198.51.100.7"])?.expect(0, &[])?;
    let _third = lab.truepeer().start()?;
    refused(&lab.edge, NEIGHBOUR.v4(0))?;
    served(&lab, NEIGHBOUR.v6(0))
}

#[test]
fn a_start_replaces_what_the_last_configuration_said() -> Result<()> {
    let (lab, _v4, _v6) = lab_with_echo()?;
    stop(lab.truepeer().start()?)?;
    let next = lab.truepeer().allow(["198.51.100.7", "2001:db8:e::7"]);
    let _running = next.start()?;
    both(NEIGHBOUR, |source| served(&lab, source))?;
    both(BALANCER, |source| refused(&lab.edge, source))
}

#[test]
fn kill_leaves_the_list_for_the_next_start() -> Result<()> {
    let (lab, _v4, _v6) = lab_with_echo()?;
    let mut first = lab.truepeer().start()?;
    lab.allow(&["add", "198.51.100.7"])?.expect(0, &[])?;
    first.signal(Signal::KILL)?;
    first.wait_exit()?;
    let _second = lab.truepeer().start()?;
    served(&lab, NEIGHBOUR.v4(0))
}

#[test]
fn a_file_may_have_comments() -> Result<()> {
    let (lab, _v4, _v6) = lab_with_echo()?;
    let file = NamedTempFile::new()?;
    let text = "# the balancers\n\n198.51.100.1\n; and the other family\n  2001:db8:e::/64  \n";
    fs::write(&file, text)?;
    let _running = with_file(&lab, file.path().to_str().context("UTF-8")?).start()?;
    both(BALANCER, |source| served(&lab, source))?;
    served(&lab, NEIGHBOUR.v6(0))?;
    refused(&lab.edge, NEIGHBOUR.v4(0))
}

pub fn with_file(lab: &Lab, path: &str) -> Truepeer {
    let none: [String; 0] = [];
    lab.truepeer().allow(none).args(["--allow-file", path])
}

#[test]
fn nobody_allowed_is_no_start() -> Result<()> {
    let lab = Lab::new()?;
    let none: [String; 0] = [];
    lab.truepeer()
        .allow(none)
        .run_to_end()?
        .expect(2, &["--allow"])
}

#[test]
fn an_empty_file_is_no_start() -> Result<()> {
    let lab = Lab::new()?;
    let file = NamedTempFile::new()?;
    let path = file.path().to_str().context("UTF-8")?;
    with_file(&lab, path).run_to_end()?.expect(2, &[])?;
    fs::write(&file, "# only a comment\n\n")?;
    with_file(&lab, path).run_to_end()?.expect(2, &[])
}

/// Root reads files of any mode: what it can't read is a directory, or isn't there.
#[test]
fn an_unreadable_file_is_no_start() -> Result<()> {
    let lab = Lab::new()?;
    let dir = TempDir::new()?;
    let missing = dir.path().join("missing");
    for path in [dir.path(), &missing] {
        let path = path.to_str().context("UTF-8")?;
        with_file(&lab, path).run_to_end()?.expect(2, &[path])?;
        // nor does a good entry beside it make up for the bad file
        let beside = lab.truepeer().args(["--allow-file", path]);
        beside.run_to_end()?.expect(2, &[path])?;
    }
    Ok(())
}

#[test]
fn a_bad_line_is_named() -> Result<()> {
    let lab = Lab::new()?;
    let file = NamedTempFile::new()?;
    let path = file.path().to_str().context("UTF-8")?;
    for bad in ["198.51.100.256", "198.51.100.1/33", "2001:db8::/129", "all"] {
        fs::write(&file, format!("198.51.100.1\n# fine so far\n{bad}\n"))?;
        let said = with_file(&lab, path).run_to_end()?;
        said.expect(2, &[path, bad]).context(bad)?;
        let line = [format!("{path}:3"), "line 3".to_owned()];
        ensure!(
            line.iter().any(|line| said.text.contains(line)),
            "no line number in: {}",
            said.text
        );
    }
    Ok(())
}

#[test]
fn a_bad_entry_changes_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let _truepeer = lab.truepeer().start()?;
    let before = lab.allow(&["list"])?;
    before.expect(0, &["198.51.100.1"])?;
    for bad in ["198.51.100.256", "198.51.100.1/33", "edge", ""] {
        for verb in ["add", "remove", "test"] {
            let said = lab.allow(&[verb, bad])?;
            said.expect(2, &[])
                .with_context(|| format!("{verb} {bad:?}"))?;
        }
    }
    assert_eq!(lab.allow(&["list"])?.text, before.text);
    Ok(())
}

/// As Windows writes files, and people command lines.
#[test]
fn byte_order_marks_and_commas_are_taken() -> Result<()> {
    let lab = Lab::new()?;
    let file = NamedTempFile::new()?;
    fs::write(&file, "\u{feff}192.0.2.1\r\n192.0.2.2\r\n")?;
    let path = file.path().to_str().context("UTF-8")?;
    let truepeer = with_file(&lab, path).args(["--allow", "192.0.2.3,192.0.2.4", "192.0.2.5"]);
    let _truepeer = truepeer.start()?;
    lab.allow(&["add", "192.0.2.6,192.0.2.7"])?.expect(0, &[])?;
    let all = (1..=7).map(|last| format!("192.0.2.{last}/32"));
    let all: Vec<_> = all.collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    lab.allow(&["list"])?.expect(0, &all)
}

/// Half a million take a look at each, and not at each beside each.
#[test]
fn a_long_file_is_read_again() -> Result<()> {
    let lab = Lab::new()?;
    let file = NamedTempFile::new()?;
    let count: u32 = scaled(20_000, 500_000);
    let lines = (0..count).map(|n| format!("{}\n", std::net::Ipv4Addr::from(n | 10 << 24)));
    fs::write(&file, lines.collect::<String>())?;
    let path = file.path().to_str().context("UTF-8")?;
    let _truepeer = with_file(&lab, path).start()?;
    let said = lab.truepeer_raw(&["reload", "--instance", lab.instance()])?;
    said.expect(0, &[&format!("{count} prefixes")])
}

#[test]
fn who_only_looks_makes_no_allowlist() -> Result<()> {
    let lab = Lab::new()?;
    for verb in [
        &["list"][..],
        &["test", "192.0.2.1"],
        &["remove", "192.0.2.1"],
    ] {
        let said = lab.allow(verb)?;
        said.expect(1, &[lab.instance(), "truepeer status --all"])?;
        ensure!(!Path::new(PINS).join(lab.instance()).exists(), "{verb:?}");
    }
    Ok(())
}

#[test]
fn an_instance_is_listed_until_it_is_forgotten() -> Result<()> {
    let lab = Lab::new()?;
    let listed = |state: &str| -> Result<()> {
        let said = lab.truepeer_raw(&["status", "--all"])?;
        let mut lines = said.text.lines();
        let line = lines.find(|line| line.split_whitespace().next() == Some(lab.instance()));
        let line = line.unwrap_or("nothing");
        ensure!(line.contains(state), "{line} where {state} should be");
        Ok(())
    };
    let forget = ["forget", "--instance", lab.instance()];
    lab.truepeer_raw(&forget)?
        .expect(1, &["nothing is known"])?;
    let truepeer = lab.truepeer().start()?;
    listed("running, pid")?;
    lab.truepeer_raw(&forget)?
        .expect(1, &["is running already"])?;
    stop(truepeer)?;
    listed("stopped")?;
    lab.truepeer_raw(&forget)?.expect(0, &["2 prefixes"])?;
    listed("nothing")?;
    ensure!(!Path::new(PINS).join(lab.instance()).exists());
    Ok(())
}
