//! Lists that are changed as a whole: by files, by commands, and while they are asked.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;
use tempfile::{NamedTempFile, TempDir};

use crate::allowlist::{both, lab_with_echo, refused, served, stop, with_file};
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, BALANCER, CLIENT, HOST, LOOPBACK, NEIGHBOUR, TRUEPEER_PORT};
use crate::lab::datagram::{self, Kind};
use crate::lab::header::Version;
use crate::lab::path::Path as Way;
use crate::lab::scale::scaled;
use crate::lab::stream::{read_greeting, round_trip};
use crate::lab::truepeer::Truepeer;

const BOTH: &str = "198.51.100.1\n2001:db8:e::1\n";
const NEIGHBOURS_TOO: &str = "198.51.100.0/29\n2001:db8:e::/64\n";

/// By this file alone.
fn by_file(lab: &Lab, file: &Path) -> Result<Truepeer> {
    Ok(with_file(lab, file.to_str().context("UTF-8")?))
}

/// The file of a list, and the one that is to take its place.
fn files(directory: &TempDir) -> [PathBuf; 2] {
    ["allow", "next"].map(|name| directory.path().join(name))
}

fn path(file: &NamedTempFile) -> Result<&str> {
    file.path().to_str().context("UTF-8")
}

/// In place, by a new one, and not at all while it is wrong.
#[test]
fn a_changed_file_is_noticed() -> Result<()> {
    let (lab, _v4, _v6) = lab_with_echo()?;
    let directory = TempDir::new()?;
    let [file, next] = files(&directory);
    fs::write(&file, BOTH)?;
    let truepeer = by_file(&lab, &file)?.start()?;
    both(NEIGHBOUR, |source| refused(&lab.edge, source))?;
    fs::write(&file, NEIGHBOURS_TOO)?;
    truepeer.wait_lines("a list's file has changed: reloaded: 2 prefixes", 1)?;
    both(NEIGHBOUR, |source| served(&lab, source))?;
    fs::write(&next, "# nobody yet\n198.51.100.1/33\n")?;
    fs::rename(&next, &file)?;
    truepeer.wait_line("a list's file has changed: not reloaded, the old lists stay")?;
    both(NEIGHBOUR, |source| served(&lab, source))?;
    fs::write(&next, BOTH)?;
    fs::rename(&next, &file)?;
    truepeer.wait_lines("a list's file has changed: reloaded: 2 prefixes", 2)?;
    both(NEIGHBOUR, |source| refused(&lab.edge, source))?;
    both(BALANCER, |source| served(&lab, source))
}

/// As Kubernetes has it: a link to a file behind a link to a directory, which is replaced.
#[test]
fn a_config_map_that_changes_is_noticed() -> Result<()> {
    let (lab, _v4, _v6) = lab_with_echo()?;
    let volume = TempDir::new()?;
    let at = |name: &str| volume.path().join(name);
    for (version, text) in [("..1", BOTH), ("..2", NEIGHBOURS_TOO)] {
        fs::create_dir(at(version))?;
        fs::write(at(version).join("allow"), text)?;
    }
    symlink("..1", at("..data"))?;
    symlink("..data/allow", at("allow"))?;
    let truepeer = by_file(&lab, &at("allow"))?.start()?;
    both(NEIGHBOUR, |source| refused(&lab.edge, source))?;
    symlink("..2", at("..data_tmp"))?;
    fs::rename(at("..data_tmp"), at("..data"))?;
    fs::remove_dir_all(at("..1"))?;
    truepeer.wait_line("a list's file has changed: reloaded: 2 prefixes")?;
    both(NEIGHBOUR, |source| served(&lab, source))
}

/// Who is on both lists is never refused, and who is on neither never admitted, however long they are and
/// whichever of a command and the file changes them.
#[test]
fn replacing_a_list_is_noticed_by_nobody_else() -> Result<()> {
    let (lab, _v4, _v6) = lab_with_echo()?;
    let count: u32 = scaled(5_000, 250_000);
    let list = |first: Ipv4Addr, more: &str| -> Result<NamedTempFile> {
        let mut file = NamedTempFile::new()?;
        let first = u32::from(first);
        let lines = (first..first + count).map(|ip| format!("{}\n", Ipv4Addr::from(ip)));
        file.write_all((lines.collect::<String>() + more).as_bytes())?;
        Ok(file)
    };
    let lists = [
        list([10, 0, 0, 0].into(), BOTH)?,
        list([11, 0, 0, 0].into(), "198.51.100.0/30\n2001:db8:e::/127\n")?,
    ];
    let directory = TempDir::new()?;
    let [file, next] = files(&directory);
    fs::write(&file, BOTH)?;
    let truepeer = by_file(&lab, &file)?.start()?;
    let ends = AtomicBool::new(false);
    let asked = thread::scope(|scope| {
        let asks = scope.spawn(|| -> Result<u32> {
            let mut asked = 0;
            while !ends.load(Ordering::Relaxed) {
                both(BALANCER, |source| served(&lab, source))?;
                both(NEIGHBOUR, |source| refused(&lab.edge, source))?;
                asked += 1;
            }
            Ok(asked)
        });
        let changed = (0..scaled(6, 4)).try_for_each(|round| {
            let list = &lists[round % 2];
            let said = lab.allow(&["replace", "--file", path(list)?])?;
            said.expect(0, &["added"])?;
            let shown = lab.allow(&["list"])?.text.lines().count();
            ensure!(shown == usize::try_from(count)? + 2, "{shown} are listed");
            fs::copy(list.path(), &next)?;
            fs::rename(&next, &file)?;
            truepeer
                .wait_lines("has changed: reloaded", round + 1)
                .map(drop)
        });
        ends.store(true, Ordering::Relaxed);
        let asked = asks.join();
        changed?;
        asked.map_err(|_| anyhow!("who asks panicked"))?
    })?;
    ensure!(asked > 0);
    Ok(())
}

#[test]
fn they_are_shown_for_programs() -> Result<()> {
    let lab = Lab::new()?;
    let _truepeer = lab.truepeer().allow(["198.51.100.1"]).start()?;
    lab.allow(&["add", "10.0.0.0/8"])?.expect(0, &[])?;
    let said = lab.allow(&["list", "--json"])?;
    let shown: serde_json::Value = serde_json::from_str(&said.text)?;
    let expected = json!([
        {"prefix": "10.0.0.0/8", "origin": "live"},
        {"prefix": "198.51.100.1/32", "origin": "config"},
    ]);
    ensure!(shown == expected, "{shown:#}");
    let said = lab.truepeer_raw(&["deny", "list", "--json", "--instance", lab.instance()])?;
    said.expect(0, &["[]"])
}

/// On both paths, and over UDP; what others have open goes on.
#[test]
fn what_a_removed_balancer_has_open_is_ended() -> Result<()> {
    for way in [Way::Direct, Way::Daemon] {
        let (lab, _v4, _v6) = lab_with_echo()?;
        let all = ["198.51.100.0/29", "2001:db8:e::/64"];
        let _truepeer = lab.truepeer().allow(all).args(way.args()).start()?;
        for (balancer, other) in BALANCER.both(0).into_iter().zip(NEIGHBOUR.both(0)) {
            let open = |source: SocketAddr| {
                let mut stream = lab
                    .edge
                    .connect_from(source, HOST.like(source, TRUEPEER_PORT))?;
                let client = CLIENT.like(source, stream.local_addr()?.port());
                let header = Version::V2.header(client, HOST.like(source, 80));
                stream.write_all(&header)?;
                ensure!(read_greeting(&mut stream)? == client);
                Ok(stream)
            };
            let (mut stays, ends) = (open(balancer)?, open(other)?);
            let net = all[usize::from(balancer.is_ipv6())];
            let one = balancer.ip().to_string();
            lab.allow(&["add", &one])?.expect(0, &["added"])?;
            lab.allow(&["remove", net, "--and-close"])?
                .expect(0, &["removed", "ended 1 open connections"])?;
            let error = (&ends).read_to_end(&mut Vec::new());
            ensure!(error.is_err(), "it ended as if nothing had been");
            round_trip(&mut stays, b"still here")?;
        }
    }
    Ok(())
}

#[test]
fn what_a_removed_balancer_has_open_is_ended_over_udp() -> Result<()> {
    for way in [Way::Direct, Way::Daemon] {
        let lab = Lab::new()?;
        let app = datagram::Echo::listen(&lab.host, LOOPBACK.v4(APP_PORT), Kind::Unconnected)?;
        let truepeer = lab.truepeer().allow(["198.51.100.1", "198.51.100.7"]);
        let truepeer = truepeer.args(["-p", "udp"]).args(way.args());
        let _truepeer = truepeer.start()?;
        let mut sockets = Vec::new();
        for (port, source) in [(1000, BALANCER), (1001, NEIGHBOUR)] {
            let balancer = datagram::socket(&lab.edge, source.v4(0))?;
            balancer.connect(HOST.v4(TRUEPEER_PORT))?;
            let header = datagram::v2(CLIENT.v4(port), HOST.v4(80), &[]);
            balancer.send(&[&header[..], b"hello"].concat())?;
            datagram::receive(&balancer)?;
            sockets.push(balancer);
        }
        let [neighbour] = [NEIGHBOUR.v4.to_string()];
        lab.allow(&["remove", &neighbour])?
            .expect(0, &["removed"])?;
        sockets[1].send(&datagram::v2(CLIENT.v4(1001), HOST.v4(80), &[]))?;
        lab.allow(&["add", &neighbour])?.expect(0, &["added"])?;
        app.say(CLIENT.v4(1001), b"no more of him")?;
        let (heard, _) = datagram::receive(&sockets[1])?;
        ensure!(heard == b"no more of him", "{heard:?}");
        lab.allow(&["remove", &neighbour, "--and-close"])?
            .expect(0, &["ended 1 open connections"])?;
        app.say(CLIENT.v4(1001), b"to nobody")?;
        app.say(CLIENT.v4(1000), b"still here")?;
        let (heard, _) = datagram::receive(&sockets[0])?;
        ensure!(heard == b"still here", "{heard:?}");
        sockets[1].set_nonblocking(true)?;
        let heard = sockets[1].recv(&mut [0; 100]);
        ensure!(heard.is_err(), "it heard what it isn't to hear");
    }
    Ok(())
}

/// A host that starts again has no maps any more; `forget` takes them the same way.
#[test]
fn what_is_put_there_live_is_kept_in_a_file() -> Result<()> {
    let (lab, _v4, _v6) = lab_with_echo()?;
    let directory = TempDir::new()?;
    let file = directory.path().join("state");
    let name = file.to_str().context("UTF-8")?;
    let truepeer = lab.truepeer().args(["--allow-state", name]);
    let running = truepeer.clone().start()?;
    let neighbours = [NEIGHBOUR.v4.to_string(), NEIGHBOUR.v6.to_string()];
    let [v4, v6] = &neighbours;
    lab.allow(&["add", v4, v6])?.expect(0, &["added"])?;
    let kept = fs::read_to_string(&file)?;
    ensure!(
        kept.contains(v4) && kept.contains(v6) && !kept.contains("198.51.100.1/"),
        "{kept}"
    );
    stop(running)?;
    let forget = ["forget", "--instance", lab.instance()];
    lab.truepeer_raw(&forget)?.expect(0, &["4 prefixes"])?;
    let running = truepeer.clone().start()?;
    both(NEIGHBOUR, |source| served(&lab, source))?;
    lab.allow(&["remove", v4])?.expect(0, &["removed"])?;
    stop(running)?;
    lab.truepeer_raw(&forget)?.expect(0, &["3 prefixes"])?;
    let _running = truepeer.start()?;
    refused(&lab.edge, NEIGHBOUR.v4(0))?;
    served(&lab, NEIGHBOUR.v6(0))
}

/// Meanwhile its directory isn't there.
#[test]
fn what_cannot_be_kept_is_told_once_and_kept_later() -> Result<()> {
    let (lab, _v4, _v6) = lab_with_echo()?;
    let directory = TempDir::new()?;
    let [inside, elsewhere] = ["inside", "elsewhere"].map(|name| directory.path().join(name));
    fs::create_dir(&inside)?;
    let file = inside.join("state");
    let name = file.to_str().context("UTF-8")?;
    let truepeer = lab.truepeer().args(["--allow-state", name]).start()?;
    fs::rename(&inside, &elsewhere)?;
    let neighbours = [NEIGHBOUR.v4.to_string(), NEIGHBOUR.v6.to_string()];
    let unkept = "what `truepeer allow` has changed isn't kept";
    for neighbour in &neighbours {
        lab.allow(&["add", neighbour])?
            .expect(1, &["added", "writing"])?;
        truepeer.wait_line(unkept)?;
    }
    fs::rename(&elsewhere, &inside)?;
    truepeer.wait_line("is kept again")?;
    let kept = fs::read_to_string(&file)?;
    ensure!(neighbours.iter().all(|it| kept.contains(it)), "{kept}");
    let log = truepeer.log();
    let told = log.iter().filter(|line| line.contains(unkept)).count();
    ensure!(told == 1, "{log:#?}");
    Ok(())
}

#[test]
fn a_state_that_cannot_be_kept_is_no_start() -> Result<()> {
    let lab = Lab::new()?;
    let mut wrong = NamedTempFile::new()?;
    wrong.write_all(b"198.51.100.7\nnobody\n")?;
    for (file, code, why) in [
        ("/nowhere/state", 1, "writing /nowhere/state"),
        (path(&wrong)?, 2, ":2: "),
    ] {
        let truepeer = lab.truepeer().args(["--allow-state", file]);
        truepeer.run_to_end()?.expect(code, &[why])?;
    }
    Ok(())
}

/// What is changed there, the daemon doesn't see.
#[test]
fn lists_of_another_mount_are_refused() -> Result<()> {
    let lab = Lab::new()?;
    let _truepeer = lab.truepeer().start()?;
    for args in ["deny 192.0.2.66", "allow add 10.0.0.0/8", "allow list"] {
        let args = args.split(' ').chain(["--instance", lab.instance()]);
        let said = lab.truepeer_by_another_bpffs(&args.collect::<Vec<_>>())?;
        said.expect(1, &["another mount of bpffs", "nsenter --target"])?;
    }
    Ok(())
}
