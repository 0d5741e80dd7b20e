//! Many clients behind one socket of a balancer's, and those who aren't what they say.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::rows;
use super::site::{Plan, Site};
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, BALANCER, HOST, LOOPBACK, NEIGHBOUR, OTHER_CLIENT, WILDCARD};
use crate::lab::datagram::{self, Framing};
use crate::lab::flows::{age, wait_for_age};
use crate::lab::header;
use crate::lab::poll;
use crate::steering::site::sysctl;

rows! {
    balancers_that_are_not_allowed;
    a_header_as_payload;
    denied_clients;
    they_are_listed;
    status_adds_them_up;
    none_is_lost_to_the_counts_where_both_paths_meet;
    the_path_is_udp_s_own;
    a_balancer_that_speaks_for_itself;
    silent_ones_are_forgotten;
    silent_for_a_minute_unless_told;
    late_answers_reach_nobody;
    neighbours_of_the_app;
    who_is_denied_is_cut_off_at_once;
    a_header_behind_a_first_datagram_in_pieces;
}

fn balancers_that_are_not_allowed(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let stranger = site.balancer_at(NEIGHBOUR)?;
    // The second one comes in pieces.
    for (sent, words) in [(1, &b"hello"[..]), (2, &[7; 4000])] {
        stranger.send(&[&site.header(1000)[..], words].concat())?;
        counted(&site, "datagram_refused", sent)?;
    }
    site.exchange(&site.balancer()?, 1001, b"hello")?;
    site.app.saw_nobody()?;
    site.end()
}

/// Of a client behind a balancer that says only once whom it speaks for.
fn a_header_as_payload(plan: Plan<'_>) -> Result<()> {
    let framing = Framing::V2First;
    let site = Plan { framing, ..plan }.start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    let forged = datagram::v2(site.of(OTHER_CLIENT, 22), site.front(), &[]);
    site.exchange_with(&balancer, &[], 1000, &forged)?;
    site.end()
}

fn denied_clients(plan: Plan<'_>) -> Result<()> {
    let denied = (plan.family)(OTHER_CLIENT, 0).ip().to_string();
    let args = &["--deny", &denied];
    let site = Plan { args, ..plan }.start()?;
    let balancer = site.balancer()?;
    let claimed = datagram::v2(site.of(OTHER_CLIENT, 1000), site.front(), &[]);
    balancer.send(&[&claimed[..], b"hello"].concat())?;
    site.exchange(&balancer, 1001, b"hello")?;
    site.app.saw_nobody()?;
    site.end()
}

fn they_are_listed(plan: Plan<'_>) -> Result<()> {
    for &framing in plan.framings() {
        let site = Plan { framing, ..plan }.start()?;
        let balancer = site.balancer()?;
        site.exchange(&balancer, 1000, b"hello")?;
        let shown = site.lab.shown("connections")?;
        let one = &shown[0];
        let version = if framing == Framing::Spp { "spp" } else { "v2" };
        for (name, expected) in [
            ("service", "default".to_owned()),
            ("client", site.client(1000).to_string()),
            ("balancer", balancer.local_addr()?.to_string()),
            ("target", site.of(LOOPBACK, APP_PORT).to_string()),
        ] {
            ensure!(one[name] == expected, "{name}: {one:#}");
        }
        ensure!(one["header"]["version"] == version, "{one:#}");
        ensure!(one["up"] == 5 && one["down"] == 5, "{one:#}");
        ensure!(
            one["datagrams"]["up"] == 1 && one["datagrams"]["down"] == 1,
            "{one:#}"
        );
        // The daemon's clock may be half a second late.
        age(&site.truepeer, 8)?;
        let shown = site.lab.shown("connections")?;
        ensure!(shown[0]["seconds"].as_u64() >= Some(7), "{shown:#}");
        site.end()?;
    }
    Ok(())
}

/// Those of the service that are there: who is forgotten or denied counts no longer.
fn status_adds_them_up(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let balancer = site.balancer()?;
    for (port, words) in [(1000, &b"hello"[..]), (1001, b"hi"), (1000, &[7; 4000])] {
        site.exchange(&balancer, port, words)?;
    }
    added_up(&site, 2, [3, 4007])?;
    let args = ["status", "--instance", site.lab.instance()];
    let moved = "3 datagrams of 4007 bytes";
    let line = format!("clients now 2: {moved} up, {moved} down");
    let said = site.lab.truepeer_raw(&args)?;
    said.expect(0, &[&line])?;
    ensure!(!said.text.contains("accepted"), "{}", said.text);
    let address = site.client(0).ip().to_string();
    site.lab
        .deny(&[&address], &["added", "ended 2 open connections"])?;
    added_up(&site, 0, [0, 0])?;
    site.leaks.saw_none()
}

fn added_up(site: &Site, now: u64, [datagrams, bytes]: [u64; 2]) -> Result<()> {
    let clients = site.lab.shown("status")?["services"][0]["clients"].take();
    let moved = json!({ "datagrams": datagrams, "bytes": bytes });
    ensure!(clients["now"] == now, "{clients:#}");
    ensure!(
        clients["up"] == moved && clients["down"] == moved,
        "{clients:#}"
    );
    Ok(())
}

/// Not that of TCP, which has no direct connections here.
fn the_path_is_udp_s_own(plan: Plan<'_>) -> Result<()> {
    let set_up = |lab: &Lab| sysctl(&lab.host, "ipv4/tcp_syncookies", "0");
    let plan = Plan {
        set_up: &set_up,
        ..plan
    };
    let site = plan.start()?;
    let paths = site.lab.shown("status")?["services"][0]["paths"].take();
    let paths = paths.as_array().context("an array")?;
    ensure!(
        paths.iter().all(|path| path["path"] == plan.path.name()),
        "{paths:#?}"
    );
    site.exchange(&site.balancer()?, 1000, b"hello")?;
    site.end()
}

fn a_balancer_that_speaks_for_itself(plan: Plan<'_>) -> Result<()> {
    let site = plan.start()?;
    let balancer = site.balancer()?;
    balancer.send(&[&header::v2_raw(0x20, 0, &[])[..], b"hello"].concat())?;
    let (client, words) = site.app.next()?;
    ensure!(client == balancer.local_addr()? && words == b"hello");
    let (reply, _) = datagram::receive(&balancer)?;
    ensure!(reply == b"hello");
    let shown = site.lab.shown("connections")?;
    ensure!(shown[0]["header"]["command"] == "local", "{shown:#}");
    ensure!(shown[0]["path"] == "daemon", "{shown:#}");
    site.exchange(&balancer, 1001, b"hello")?;
    site.leaks.saw_none()
}

/// Nor the real client, of an app that is bound to no address.
fn late_answers_reach_nobody(plan: Plan<'_>) -> Result<()> {
    let site = Plan {
        bind: WILDCARD,
        args: &["--close-after", "1s"],
        ..plan
    }
    .start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    site.wait_forgotten()?;
    late_answer_is_dropped(&site)?;
    site.leaks.saw_none()
}

fn late_answer_is_dropped(site: &Site) -> Result<()> {
    // What the daemon takes for now is half a second behind.
    poll::until("a late answer", || {
        site.app.say(site.client(1000), b"late")?;
        let count = site.lab.shown("status")?["kernel"]["datagram_orphan"].as_u64();
        Ok((count > Some(0)).then_some(()))
    })
}

/// Who is on the host is answered as without truepeer.
fn neighbours_of_the_app(plan: Plan<'_>) -> Result<()> {
    let bind = WILDCARD;
    let site = Plan { bind, ..plan }.start()?;
    for addr in [LOOPBACK, HOST] {
        let neighbour = datagram::socket(&site.lab.host, site.of(addr, 0))?;
        neighbour.connect(site.of(addr, APP_PORT))?;
        neighbour.send(b"hello")?;
        ensure!(site.app.next()?.0 == neighbour.local_addr()?);
        ensure!(datagram::receive(&neighbour)?.0 == b"hello");
    }
    site.exchange(&site.balancer()?, 1000, b"hello")?;
    site.end()
}

fn silent_ones_are_forgotten(plan: Plan<'_>) -> Result<()> {
    let args = &["--close-after", "1s"];
    let site = Plan { args, ..plan }.start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    site.wait_forgotten()?;
    added_up(&site, 0, [0, 0])?;
    site.exchange(&balancer, 1000, b"hello")?;
    site.leaks.saw_none()
}

/// Of the programs' seconds, which are a little longer; some pass here as well.
fn silent_for_a_minute_unless_told(plan: Plan<'_>) -> Result<()> {
    const MINUTE: u32 = 60;
    wait_for_age(2 * MINUTE)?;
    let site = plan.start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    age(&site.truepeer, MINUTE - 8)?;
    site.app.say(site.client(1000), b"still here")?;
    site.answered(&balancer, 1000, b"still here")?;
    age(&site.truepeer, MINUTE + 2)?;
    site.wait_forgotten()?;
    late_answer_is_dropped(&site)?;
    site.leaks.saw_none()
}

/// Long ones go by the daemon, and short answers meanwhile by the programs: each is counted.
fn none_is_lost_to_the_counts_where_both_paths_meet(plan: Plan<'_>) -> Result<()> {
    const LONG: usize = 200;
    const SHORT_FOR_EACH: usize = 50;
    let site = plan.serve(datagram::socket)?;
    let client = site.client(1000);
    let balancer = datagram::socket(&site.lab.edge, site.of(BALANCER, 0))?;
    balancer.connect(site.service())?;
    let long = [&site.header(1000)[..], &[b'x'; 3000]].concat();
    for _ in 0..LONG {
        balancer.send(&long)?;
        for _ in 0..SHORT_FOR_EACH {
            site.app.send_to(b"more", client)?;
        }
        datagram::receive(&site.app)?;
    }
    // The first ones may come before there is a client to hear them.
    let least = (LONG - 1) * SHORT_FOR_EACH;
    let sent = LONG * SHORT_FOR_EACH;
    let orphans = site.lab.shown("status")?["kernel"]["datagram_orphan"].as_u64();
    let expected = sent - usize::try_from(orphans.unwrap_or_default())?;
    ensure!(expected >= least, "{orphans:?} were orphans");
    let expected = json!({"up": LONG, "down": expected});
    let mut last = json!(null);
    poll::until("all to be counted", || {
        last = site.lab.shown("connections")?[0]["datagrams"].take();
        Ok((last == expected).then_some(()))
    })
    .with_context(|| format!("{last} where {expected} should be"))?;
    site.leaks.saw_none()
}

pub fn counted(site: &Site, name: &str, least: u64) -> Result<()> {
    poll::until("a counter to count", || {
        let count = site.lab.shown("status")?["kernel"][name].as_u64();
        Ok((count.unwrap_or_default() >= least).then_some(()))
    })
    .with_context(|| name.to_owned())
}

pub fn ended_so_far(site: &Site, how: &str) -> Result<u64> {
    let count = site.lab.counts()?["ended"][how].as_u64();
    Ok(count.unwrap_or_default())
}

pub fn ended(site: &Site, how: &str, times: u64) -> Result<()> {
    poll::until("a datagram to be refused", || {
        Ok((ended_so_far(site, how)? == times).then_some(()))
    })
    .with_context(|| how.to_owned())
}

/// What the app still has to say gets neither to the balancer nor to the client.
fn who_is_denied_is_cut_off_at_once(plan: Plan<'_>) -> Result<()> {
    let site = plan.app_at(HOST).start()?;
    let client = site.client(1000);
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    let address = client.ip().to_string();
    site.lab
        .deny(&[&address], &["added", "ended 1 open connection"])?;
    site.wait_forgotten()?;
    site.app.say(client, b"too late")?;
    balancer.send(&[&site.header(1000)[..], b"denied"].concat())?;
    poll::until("both to be dropped", || {
        let status = site.lab.shown("status")?;
        let counts = [
            &status["kernel"]["datagram_denied"],
            &status["connections"]["ended"]["client_denied"],
        ];
        let count: u64 = counts
            .into_iter()
            .filter_map(serde_json::Value::as_u64)
            .sum();
        Ok((count == 2).then_some(()))
    })?;
    site.app.saw_nobody()?;
    site.lab.deny(&["remove", &address], &["removed"])?;
    site.exchange(&balancer, 1000, b"again")?;
    site.end()
}

/// The daemon, which gets what is in pieces, hasn't told the programs yet when the next one comes.
fn a_header_behind_a_first_datagram_in_pieces(plan: Plan<'_>) -> Result<()> {
    let framing = Framing::V2First;
    let site = Plan { framing, ..plan }.start()?;
    let forged = datagram::v2(site.of(OTHER_CLIENT, 22), site.front(), &[]);
    let mut open = Vec::new();
    for port in 1000..1050 {
        let balancer = site.balancer()?;
        balancer.send(&[&site.header(port)[..], &[7; 1460]].concat())?;
        balancer.send(&[&forged[..], b"hello"].concat())?;
        site.app_got(port, &[7; 1460])?;
        site.app_got(port, &[&forged[..], b"hello"].concat())?;
        // Its port is nobody else's.
        open.push(balancer);
    }
    site.leaks.saw_none()
}
