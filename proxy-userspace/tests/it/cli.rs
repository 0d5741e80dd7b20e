//! The command line: exit codes, and what a mistake is answered with.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tempfile::NamedTempFile;

use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, TRUEPEER_PORT};
use crate::lab::app::{App, Echo};
use crate::lab::header::Version;
use crate::lab::stream::read_greeting;
use crate::lab::{Lab, PINS};

#[test]
fn help_and_version_are_no_errors() -> Result<()> {
    let lab = Lab::new()?;
    lab.truepeer_raw(&["--help"])?
        .expect(0, &["run", "allow"])?;
    lab.truepeer_raw(&["run", "--help"])?
        .expect(0, &["--listen", "--target4", "--allow"])?;
    lab.truepeer_raw(&["--version"])?.expect(0, &["truepeer"])
}

#[test]
fn mistakes_are_exit_code_2() -> Result<()> {
    let lab = Lab::new()?;
    for (line, part) in [
        ("", ""),
        ("fly", "fly"),
        ("--fly", "--fly"),
        ("run --fly", "--fly"),
        ("run", "--listen"),
        ("run -l 198.51.100.2:7000 --allow 198.51.100.1", "--target4"),
        ("run -4 127.0.0.1:8080 --allow 198.51.100.1", "--listen"),
        (
            "run -l 198.51.100.2:0 -4 127.0.0.1:8080 --allow 198.51.100.1",
            "198.51.100.2:0",
        ),
        (
            "run -l 224.0.0.5:7000 -4 127.0.0.1:8080 --allow 198.51.100.1",
            "224.0.0.5:7000",
        ),
        (
            "run -l 198.51.100.255:7000 -4 127.0.0.1:8080 --allow 198.51.100.1",
            "198.51.100.255:7000",
        ),
        (
            "run -l 255.255.255.255:7000 -4 127.0.0.1:8080 --allow 198.51.100.1",
            "255.255.255.255:7000",
        ),
        (
            "run -l 169.254.80.81:7000 -4 127.0.0.1:8080 --allow 198.51.100.1",
            "steer network 169.254.80.80/28",
        ),
        (
            "run -l 198.51.100.2:7000 -6 [fd74:7275:6570::9]:80 --allow 198.51.100.1",
            "steer network fd74:7275:6570::1/112",
        ),
        (
            "run -l 198.51.100.2:7000 -4 198.51.100.255:80 --allow 198.51.100.1",
            "198.51.100.255:80",
        ),
        (
            "check -l 198.51.100.2:7000 -4 198.51.100.255:80 --allow 198.51.100.1",
            "198.51.100.255:80",
        ),
        (
            "run -l 198.51.100.2:7000 -6 [::ffff:127.0.0.1]:80 --allow 198.51.100.1",
            "--target4 127.0.0.1:80",
        ),
        ("allow", ""),
        ("allow fly 198.51.100.1", "fly"),
        ("allow add", ""),
    ] {
        let args: Vec<_> = line.split_whitespace().collect();
        let said = lab.truepeer_raw(&args)?;
        said.expect(2, &[part])
            .with_context(|| format!("{line:?}"))?;
    }
    Ok(())
}

#[test]
fn no_service_listens_where_a_target_is() -> Result<()> {
    let lab = Lab::new()?;
    for (listen, target) in [
        ("0.0.0.0:2222", "127.0.0.1:2222"),
        ("[::]:2222", "127.0.0.1:2222"),
        ("[::]:2222", "[::1]:2222"),
        ("198.51.100.2:2222", "198.51.100.2:2222"),
        // the host's own
        ("0.0.0.0:2222", "198.51.100.2:2222"),
        ("[::]:2222", "[2001:db8:e::2]:2222"),
    ] {
        let flag = if target.starts_with('[') { "-6" } else { "-4" };
        let mut line = vec!["run", "-l", listen, flag, target, "--allow", "198.51.100.1"];
        line.extend(["--instance", lab.instance()]);
        let said = lab.truepeer_raw(&line)?;
        said.expect(2, &[listen, target])
            .with_context(|| format!("{line:?}"))?;
        line[0] = "check";
        lab.truepeer_raw(&line)?
            .expect(2, &[listen, target])
            .with_context(|| format!("{line:?}"))?;
    }
    ensure!(!Path::new(PINS).join(lab.instance()).exists());
    lab.no_device_left()
}

/// What is for UDP is no flag of TCP's, nor the other way round.
#[test]
fn flags_of_one_protocol() -> Result<()> {
    let lab = Lab::new()?;
    for (flags, part) in [
        (&["--header", "spp"][..], "--header spp is for UDP"),
        (&["-p", "udp", "--header", "v1"], "v1 has no word for UDP"),
    ] {
        let line = ["run", "-l", "198.51.100.2:7000", "-4", "127.0.0.1:8080"];
        let line = [&line[..], &["--allow", "198.51.100.1"], flags].concat();
        lab.truepeer_raw(&line)?.expect(2, &[part])?;
    }
    Ok(())
}

/// No client's connection goes to a listener of truepeer's, whichever instance's it is.
#[test]
fn no_other_instance_listens_where_a_target_is() -> Result<()> {
    let lab = Lab::new()?;
    let first = lab.truepeer().start()?;
    let [listen, _] = HOST.both(TRUEPEER_PORT).map(|at| at.to_string());
    let name = format!("{}-2", lab.instance());
    let line = |verb| {
        let listen = ["-l", "198.51.100.2:7001", "-4", &listen];
        let others = ["--allow", "198.51.100.1", "--instance", &name];
        [&[verb][..], &listen, &others].concat()
    };
    for verb in ["run", "check"] {
        let said = lab.truepeer_raw(&line(verb))?;
        said.expect(2, &[&listen, lab.instance()])
            .with_context(|| verb)?;
    }
    drop(first);
    // Another host's is nobody's business.
    let other = Lab::new()?;
    let _elsewhere = other.truepeer().start()?;
    lab.truepeer_raw(&line("check"))?
        .expect(1, &["nothing listens there"])
}

#[test]
fn bad_values_are_named() -> Result<()> {
    let lab = Lab::new()?;
    for (flag, value) in [
        ("--listen", "198.51.100.2:+80"),
        ("--listen", "198.51.100.2:080"),
        ("--listen", "198.51.100.2:65616"),
        ("--listen", "198.51.100.2"),
        ("--listen", "[2001:db8:e::2]:+80"),
        ("--listen", "[2001:db8:e::2]:080"),
        ("--target4", "127.0.0.1:+80"),
        ("--target4", "127.0.0.1:080"),
        ("--target4", "127.0.0.1:65616"),
        ("--target4", "[::1]:80"),
        ("--target6", "[::1]:+80"),
        ("--target6", "[::1]:080"),
        ("--target6", "[::1]:65616"),
        ("--target6", "127.0.0.1:80"),
        ("--allow", "198.51.100.1/33"),
        ("--allow", "everybody"),
        ("--header", "v3"),
        ("--header-timeout", "soon"),
        ("--header-max-len", "535"),
        ("--header-max-len", "65552"),
        ("--header-max-len", "4k"),
        ("--on-local", "unspoofed"),
        ("--on-no-target", "balancer"),
        ("--on-martian", "balancer"),
        ("--connect-timeout", "1 parsec"),
        ("--drain-timeout", ""),
        ("--maxconn", "few"),
        ("--steer4", "255.255.255.240/28"),
        ("--workers", "many"),
        ("--workers", "0"),
        ("--maxconn", "0"),
        ("--maxconn-per-balancer", "0"),
        ("--instance", "../up"),
    ] {
        let said = lab.truepeer_raw(&run_with(flag, value))?;
        said.expect(2, &[flag, value])
            .with_context(|| format!("{flag} {value}"))?;
    }
    Ok(())
}

/// A command line that is right but for one flag.
fn run_with<'a>(flag: &'a str, value: &'a str) -> Vec<&'a str> {
    let right = [
        ("--listen", "198.51.100.2:7000"),
        ("--target4", "127.0.0.1:8080"),
        ("--target6", "[::1]:8080"),
        ("--allow", "198.51.100.1"),
    ];
    let rest = right.into_iter().filter(|(name, _)| *name != flag);
    let mut line = vec!["run"];
    for (name, value) in rest.chain([(flag, value)]) {
        line.extend([name, value]);
    }
    line
}

#[test]
fn short_flags_do_the_same() -> Result<()> {
    let lab = Lab::new()?;
    let _app = Echo::greeting(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let (listen, v4, v6) = (
        HOST.v4(TRUEPEER_PORT).to_string(),
        LOOPBACK.v4(APP_PORT).to_string(),
        LOOPBACK.v6(APP_PORT).to_string(),
    );
    let _truepeer = lab
        .truepeer()
        .listen([])
        .no_targets()
        .args(["-l", &listen, "-4", &v4, "-6", &v6, "-vv"])
        .start()?;
    let client = CLIENT.v4(41000);
    let header = Version::V2.header(client, FRONT.v4(FRONT_PORT));
    assert_eq!(read_greeting(&mut lab.balancer(&header)?)?, client);
    Ok(())
}

/// A command line of mmproxy's or go-mmproxy's needs no new flags.
#[test]
fn the_peers_flags_do_the_same() -> Result<()> {
    let lab = Lab::new()?;
    let _app = Echo::greeting(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let mut networks = NamedTempFile::new()?;
    writeln!(networks, "198.51.100.0/24")?;
    let networks = networks.path().to_string_lossy().into_owned();
    for flag in ["--allowed-subnets", "--allowed-networks"] {
        let truepeer = lab.truepeer().allow::<String>([]).args([flag, &networks]);
        let others = ["--listeners", "3", "--mark", "123", "--close-after", "60"];
        let truepeer = truepeer.args(others).start()?;
        truepeer.wait_line("3 workers")?;
        let client = CLIENT.v4(41000);
        let header = Version::V2.header(client, FRONT.v4(FRONT_PORT));
        assert_eq!(read_greeting(&mut lab.balancer(&header)?)?, client);
    }
    Ok(())
}

#[test]
fn one_family_may_be_all_there_is() -> Result<()> {
    for target in LOOPBACK.both(APP_PORT) {
        let lab = Lab::new()?;
        let _app = Echo::greeting(&lab.host, target)?;
        let flag = if target.is_ipv4() { "-4" } else { "-6" };
        let _truepeer = lab
            .truepeer()
            .no_targets()
            .args([flag, &target.to_string()])
            .start()?;
        let client = CLIENT.like(target, 41000);
        let header = Version::V2.header(client, FRONT.like(client, FRONT_PORT));
        assert_eq!(read_greeting(&mut lab.balancer(&header)?)?, client);
    }
    Ok(())
}

#[test]
fn an_instance_runs_once() -> Result<()> {
    let lab = Lab::new()?;
    let _app = Echo::greeting(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let _first = lab.truepeer().start()?;
    let second = lab.truepeer().listen([HOST.v4(7001)]).run_to_end()?;
    ensure!(matches!(second.code, Some(1 | 2)), "{second:?}");
    ensure!(second.text.contains(lab.instance()), "{second:?}");

    // the first one is none the worse for it
    let client = CLIENT.v4(41000);
    let header = Version::V2.header(client, FRONT.v4(FRONT_PORT));
    assert_eq!(read_greeting(&mut lab.balancer(&header)?)?, client);
    Ok(())
}

#[test]
fn nobody_has_to_read_to_the_end() -> Result<()> {
    let lab = Lab::new()?;
    let _truepeer = lab.truepeer().start()?;
    for verb in ["status", "connections"] {
        let said = lab.unread(verb)?;
        ensure!(
            (said.code, said.text.as_str()) == (Some(0), ""),
            "{verb}: {said:?}"
        );
    }
    Ok(())
}

#[test]
fn more_workers_than_files_may_be_open() -> Result<()> {
    let lab = Lab::new()?;
    let said = lab.truepeer().args(["--workers", "100000"]).run_to_end()?;
    said.expect(1, &["fewer --workers"])?;
    lab.no_device_left()
}

#[test]
fn a_port_that_is_taken_is_a_failure() -> Result<()> {
    let lab = Lab::new()?;
    let taken = HOST.v4(TRUEPEER_PORT);
    let _holder = App::listen(&lab.host, taken)?;
    let said = lab.truepeer().run_to_end()?;
    said.expect(1, &[&taken.to_string()])?;
    lab.no_device_left()
}
