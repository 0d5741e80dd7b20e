//! Whose payload it is, where only the first datagram of a balancer's socket says so. A client's payload may
//! look like a header.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::clients::ended;
use super::rows;
use super::site::{Plan, Site};
use crate::lab::addr::{OTHER_CLIENT, WILDCARD};
use crate::lab::datagram::{self, Framing};
use crate::lab::poll;
use crate::lab::proc::Proc;

rows! {
    a_header_behind_an_eviction;
    a_header_in_pieces_behind_an_eviction;
    a_header_of_a_denied_client;
    a_header_of_one_too_many;
    a_header_behind_answers;
    a_header_behind_one_of_nobody;
}

/// Whoever is silent for three seconds is forgotten.
fn forgetful(plan: Plan<'_>) -> Result<Site> {
    Plan {
        args: &["--close-after", "3s"],
        framing: Framing::V2First,
        ..plan
    }
    .start()
}

/// Until it has been silent for long enough, its client isn't known.
fn a_header_behind_an_eviction(plan: Plan<'_>) -> Result<()> {
    let site = forgetful(plan)?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    evict(&site.truepeer)?;
    // What comes in between is no silence.
    for dropped in 1..=5 {
        balancer.send(&forged(&site, b"hello"))?;
        refused(&site, dropped)?;
        sleep(Duration::from_secs(1));
    }
    site.app.saw_nobody()?;
    site.exchange(&site.balancer()?, 1001, b"by another socket")?;
    sleep(Duration::from_secs(5));
    site.exchange(&balancer, 1002, b"for somebody else")?;
    site.exchange_with(&balancer, &[], 1002, b"and again")?;
    site.end()
}

fn a_header_in_pieces_behind_an_eviction(plan: Plan<'_>) -> Result<()> {
    let framing = Framing::V2First;
    let site = Plan { framing, ..plan }.start()?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    evict(&site.truepeer)?;
    balancer.send(&forged(&site, &[7; 4000]))?;
    refused(&site, 1)?;
    balancer.send(&forged(&site, b"hello"))?;
    refused(&site, 2)?;
    site.app.saw_nobody()?;
    site.leaks.saw_none()
}

fn a_header_of_a_denied_client(plan: Plan<'_>) -> Result<()> {
    let denied = (plan.family)(OTHER_CLIENT, 0).ip().to_string();
    let site = Plan {
        args: &["--deny", &denied],
        framing: Framing::V2First,
        ..plan
    }
    .start()?;
    let balancer = site.balancer()?;
    balancer.send(&forged(&site, b"hello"))?;
    refused(&site, 1)?;
    for refusals in 2..4 {
        balancer.send(&[&site.header(1000)[..], b"hello"].concat())?;
        refused(&site, refusals)?;
    }
    site.app.saw_nobody()?;
    site.exchange(&site.balancer()?, 1000, b"hello")?;
    site.end()
}

/// He can't take over the flow of another client of his balancer's.
fn a_header_of_one_too_many(plan: Plan<'_>) -> Result<()> {
    let site = Plan {
        args: &["--maxconn", "1"],
        framing: Framing::V2First,
        ..plan
    }
    .start()?;
    let (first, second) = (site.balancer()?, site.balancer()?);
    site.exchange(&first, 1000, b"hello")?;
    second.send(&[&site.header(1001)[..], b"hello"].concat())?;
    refused(&site, 1)?;
    second.send(&[&site.header(1000)[..], b"hello"].concat())?;
    refused(&site, 2)?;
    site.app.saw_nobody()?;
    site.exchange_with(&first, &[], 1000, b"still here")?;
    site.end()
}

/// Whoever is answered isn't forgotten, however long he says nothing himself.
fn a_header_behind_answers(plan: Plan<'_>) -> Result<()> {
    let site = forgetful(plan)?;
    let balancer = site.balancer()?;
    site.exchange(&balancer, 1000, b"hello")?;
    for _ in 0..6 {
        sleep(Duration::from_secs(1));
        site.app.say(site.client(1000), b"more")?;
        site.answered(&balancer, 1000, b"more")?;
    }
    site.exchange_with(&balancer, &[], 1000, &forged(&site, b"hello"))?;
    site.exchange_with(&balancer, &[], 1000, b"still here")?;
    site.end()
}

/// Whoever that is, the socket speaks for him, and he can't be anybody else then.
fn a_header_behind_one_of_nobody(plan: Plan<'_>) -> Result<()> {
    let framing = Framing::V2First;
    for port in [0, 1000] {
        let site = Plan { framing, ..plan }.start()?;
        let balancer = site.balancer()?;
        let nobody = datagram::v2(site.of(WILDCARD, port), site.front(), &[]);
        balancer.send(&[&nobody[..], b"hello"].concat())?;
        ended(&site, "client_unspecified", 1)?;
        balancer.send(&forged(&site, b"hello"))?;
        ended(&site, "client_unspecified", 2)?;
        site.app.saw_nobody()?;
        site.leaks.saw_none()?;
    }
    Ok(())
}

/// As a client's payload.
fn forged(site: &Site, words: &[u8]) -> Vec<u8> {
    let header = datagram::v2(site.of(OTHER_CLIENT, 22), site.front(), &[]);
    [&header[..], words].concat()
}

/// So many datagrams have been dropped, by the programs or the daemon.
fn refused(site: &Site, times: u64) -> Result<()> {
    poll::until("datagrams to be dropped", || {
        let status = site.lab.shown("status")?;
        let (kernel, ended) = (&status["kernel"], &status["connections"]["ended"]);
        let counts = [
            &kernel["datagram_forgotten"],
            &kernel["datagram_full"],
            &kernel["datagram_denied"],
            &ended["forgotten"],
            &ended["client_denied"],
        ];
        let count: u64 = counts.into_iter().filter_map(Value::as_u64).sum();
        ensure!(count <= times, "{count} were dropped: {status:#}");
        Ok((count == times).then_some(()))
    })
}

/// As if others had taken all places.
pub fn evict(truepeer: &Proc) -> Result<()> {
    let ids = truepeer.fd_info("map_id")?;
    let maps = ids
        .iter()
        .map(|id| bpftool(&["map", "show", "id", &id.to_string()]));
    let maps = maps.collect::<Result<Vec<_>>>()?;
    let firsts = maps.iter().find(|map| map["name"] == "firsts");
    let id = firsts.context("a map")?["id"].to_string();
    let all = bpftool(&["map", "dump", "id", &id])?;
    let all = all.as_array().context("an array")?;
    ensure!(!all.is_empty(), "no socket is known");
    for entry in all {
        let key = entry["key"].as_array().context("a key")?;
        let key = key.iter().map(|byte| byte.as_str().unwrap_or_default());
        let key: Vec<_> = key.collect();
        let delete = ["map", "delete", "id", &id, "key", "hex"];
        bpftool(&[&delete[..], &key].concat())?;
    }
    Ok(())
}

fn bpftool(args: &[&str]) -> Result<Value> {
    let output = Command::new("bpftool").arg("-j").args(args).output()?;
    ensure!(output.status.success(), "bpftool {args:?}: {output:?}");
    Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
}
