//! dnsdist as the balancer, servers of DNS as the app: their logs show the client, and answers of all sizes
//! that DNS has over UDP arrive whole.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::name_servers::{self, Start};
use super::rows;
use super::site::Plan;
use crate::lab::Lab;
use crate::lab::addr::{APP_PORT, CLIENT, FRONT, FRONT_PORT, HOST, LOOPBACK, TRUEPEER_PORT};
use crate::lab::datagram;
use crate::lab::dnsdist::Dnsdist;
use crate::lab::leaks::Leaks;

rows! {
    dnsdist_before_unbound;
    dnsdist_before_bind;
}

/// Of answers: small ones, some around what a packet takes, and as large as signed ones get, for which
/// clients have room.
const SIZES: [u16; 8] = [100, 512, 1232, 1472, 1473, 1600, 2800, 4096];

fn dnsdist_before_unbound(plan: Plan<'_>) -> Result<()> {
    dnsdist_before(name_servers::unbound, plan)
}

fn dnsdist_before_bind(plan: Plan<'_>) -> Result<()> {
    dnsdist_before(name_servers::bind, plan)
}

fn dnsdist_before(start: Start, plan: Plan<'_>) -> Result<()> {
    let of = plan.family;
    let lab = Lab::new()?;
    let records: Vec<_> = SIZES.into_iter().map(Record::answered_by).collect();
    let server = start(&lab.host, of(LOOPBACK, APP_PORT), &records)?;
    let _truepeer = lab
        .truepeer()
        .targets_for(of(LOOPBACK, APP_PORT))
        .args(plan.path.args())
        .args(plan.framing.args())
        .start()?;
    let leaks = Leaks::watch(&lab.edge)?;
    let _dnsdist = Dnsdist::start_udp(&lab.edge, of(HOST, TRUEPEER_PORT), &records[0].name())?;
    for (port, record) in (20_400..).zip(&records) {
        asked(&lab, of(CLIENT, port), of(FRONT, FRONT_PORT), record)
            .with_context(|| format!("the answer of {} bytes", record.answer))?;
        server.wait_client(of(CLIENT, port), record)?;
    }
    came_by(&lab, plan)?;
    leaks.saw_none()
}

/// The whole answer and nothing else.
pub fn asked(lab: &Lab, client: SocketAddr, front: SocketAddr, record: &Record) -> Result<()> {
    let client = datagram::socket(&lab.client, client)?;
    client.send_to(&record.query(), front)?;
    let (answer, _) = datagram::receive(&client)?;
    let data = record.data();
    let mut parts = answer.windows(data.len());
    ensure!(parts.any(|part| part == data), "the record isn't in it");
    ensure!(
        answer.len() == usize::from(record.answer),
        "it has {} bytes",
        answer.len()
    );
    Ok(())
}

/// What is listed of the client's flows, each of which has taken the path that it should.
pub fn flows(lab: &Lab, plan: Plan<'_>) -> Result<Vec<Value>> {
    let mut shown = lab.shown("connections")?;
    let client = (plan.family)(CLIENT, 0).ip();
    let is_clients = |one: &Value| {
        let at = one["client"].as_str().map(str::parse::<SocketAddr>);
        at.is_some_and(|at| at.is_ok_and(|at| at.ip() == client))
    };
    let mut all = std::mem::take(shown.as_array_mut().context("an array")?);
    all.retain(is_clients);
    let is_right = |one: &Value| one["path"] == plan.path.name();
    ensure!(all.iter().all(is_right), "by another path: {all:#?}");
    Ok(all)
}

/// The flow of each client is listed.
fn came_by(lab: &Lab, plan: Plan<'_>) -> Result<()> {
    let flows = flows(lab, plan)?;
    ensure!(flows.len() == SIZES.len(), "{flows:#?}");
    Ok(())
}

/// A TXT record.
pub struct Record {
    /// Bytes of the answer with it.
    answer: u16,
}

impl Record {
    /// DNS's own header, the question, and the answer's type, class, TTL and length behind a pointer to
    /// the question's name; the name's length is that of `s1234.lab`. OPT is last.
    const AROUND: usize = 12 + (1 + 5 + 1 + 3 + 1) + 4 + (2 + 10) + 11;

    pub const fn answered_by(answer: u16) -> Self {
        Self { answer }
    }

    pub fn name(&self) -> String {
        format!("s{:04}.lab.", self.answer)
    }

    /// Strings of at most 255 bytes, as many as it takes.
    pub fn strings(&self) -> Vec<String> {
        let mut letters = ('a'..='w').cycle();
        let mut left = usize::from(self.answer) - Self::AROUND;
        let mut strings = Vec::new();
        while left > 0 {
            // Each with its length before it.
            let length = left.min(256) - 1;
            strings.push(letters.by_ref().take(length).collect());
            left -= length + 1;
        }
        strings
    }

    /// The strings as they are in the answer.
    pub fn data(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for string in self.strings() {
            data.push(u8::try_from(string.len()).expect("at most 255 bytes"));
            data.extend(string.as_bytes());
        }
        data
    }

    /// Without signatures.
    pub fn answer_length(&self) -> usize {
        self.answer.into()
    }

    /// The same, with all that is signed (DO).
    pub fn query_for_signatures(&self) -> Vec<u8> {
        const DO: u8 = 0x80;
        let mut query = self.query();
        // Behind it are four bytes: the rest of the flags, and the options' length.
        let at = query.len() - 4;
        query[at] |= DO;
        query
    }

    /// With room for 4,096 bytes (EDNS).
    fn query(&self) -> Vec<u8> {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        for label in self.name().split_terminator('.') {
            query.push(u8::try_from(label.len()).expect("a short label"));
            query.extend(label.as_bytes());
        }
        // The end of the name, TXT, IN.
        query.extend([0, 0, 16, 0, 1]);
        // The root, OPT, 4,096 bytes, nothing else.
        query.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
        query
    }
}
