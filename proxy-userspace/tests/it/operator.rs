//! Who may ask the daemon, and what it does when nobody listens to what it says.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::lab::Lab;
use crate::lab::addr::{
    APP_PORT, BALANCER, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, TRUEPEER_PORT,
};
use crate::lab::app::Echo;
use crate::lab::header::Version;
use crate::lab::poll;
use crate::lab::stream::expect_end;

const GROUP: u32 = 4_711;
const ANOTHER_GROUP: u32 = 4_712;

#[test]
fn a_group_may_look_and_change_nothing() -> Result<()> {
    let lab = Lab::new()?;
    let group = GROUP.to_string();
    let truepeer = lab.truepeer().args(["--status-group", &group]).start()?;
    let ask = |group, verb| lab.truepeer_by_group(group, &[verb, "--instance", lab.instance()]);
    ask(GROUP, "status")?.expect(0, &[lab.instance(), "service default"])?;
    ask(GROUP, "connections")?.expect(0, &["CLIENT"])?;
    ask(GROUP, "reload")?.expect(1, &["no permission", "as root"])?;
    ask(ANOTHER_GROUP, "status")?.expect(1, &["no permission", "--status-group"])?;
    drop(truepeer);

    let _without = lab.truepeer().start()?;
    ask(GROUP, "status")?.expect(1, &["no permission", "--status-group"])
}

/// Whoever may look could otherwise take all the files that the daemon may have open.
#[test]
fn askers_who_say_nothing_take_little() -> Result<()> {
    const MOST: usize = 16;
    let lab = Lab::new()?;
    let _app = Echo::start(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let truepeer = lab.truepeer().args(["--status-group", "0"]).start()?;
    let files =
        || Ok::<_, anyhow::Error>(fs::read_dir(format!("/proc/{}/fd", truepeer.pid()))?.count());
    let before = files()?;
    let socket = format!("/run/truepeer/{}.status.sock", lab.instance());
    let askers = (0..100).map(|_| UnixStream::connect(&socket));
    let _askers = askers.collect::<io::Result<Vec<_>>>()?;
    poll::until("the daemon to have as many as it takes", || {
        Ok((files()? >= before + MOST).then_some(()))
    })?;
    // Root asks where they can't.
    lab.shown("status")?;
    let more = files()? - before;
    ensure!(more < 2 * MOST, "{more} files more");
    Ok(())
}

#[test]
fn a_group_that_is_not_there_is_named() -> Result<()> {
    let lab = Lab::new()?;
    let said = lab
        .truepeer()
        .args(["--status-group", "no-such-group"])
        .run_to_end()?;
    said.expect(2, &["no-such-group", "no such group"])?;
    let by_name = lab.truepeer().args(["--status-group", "adm"]);
    by_name.start().map(drop)
}

#[test]
fn too_few_files_are_named_as_the_cause() -> Result<()> {
    let lab = Lab::new()?;
    for files in [40, 100, 200] {
        let truepeer = lab.truepeer().open_files(files);
        let said = truepeer.run_to_end()?;
        said.expect(1, &[&format!("{files} files may be open"), "LimitNOFILE"])?;
        let line = format!("FAIL open files: {files} are too few");
        truepeer.check()?.expect(1, &[&line])?;
    }
    lab.no_device_left()
}

/// More than the daemon keeps and a pipe takes.
#[test]
fn a_log_that_nobody_reads_holds_nobody_up() -> Result<()> {
    const CONNECTIONS: u16 = 4_000;
    let lab = Lab::new()?;
    let _app = Echo::start(&lab.host, LOOPBACK.v4(APP_PORT))?;
    let mut truepeer = lab.truepeer().by_daemon().args(["-vv"]).start()?;
    truepeer.leave_unread();
    for port in (20_000..).take(CONNECTIONS.into()) {
        let mut balancer = lab
            .edge
            .connect_from(BALANCER.v4(0), HOST.v4(TRUEPEER_PORT))
            .with_context(|| format!("client's port {port}"))?;
        let header = Version::V2.header(CLIENT.v4(port), FRONT.v4(FRONT_PORT));
        balancer.write_all(&header)?;
        balancer.shutdown(std::net::Shutdown::Write)?;
        expect_end(&mut balancer).with_context(|| format!("client's port {port}"))?;
    }
    let status = lab.shown("status")?;
    assert_eq!(status["connections"]["opened"], CONNECTIONS);
    let dropped = status["log_lines_dropped"].as_u64();
    ensure!(dropped > Some(0), "no line was dropped: {status:#}");
    truepeer.signal(Signal::TERM)?;
    assert_eq!(truepeer.wait_end()?.code(), Some(0));
    lab.no_device_left()
}
