//! What a contender uses, from /proc.

use std::fs;

use anyhow::{Context, Result};
use proxy_common::{datagram::MAX_DATAGRAM_FLOWS, spoken};
use rustix::process::Pid;

use crate::open;

/// Of a process and its children, as nginx's workers are; of none for direct.
pub struct Usage(Option<Pid>);

pub struct Cpu {
    /// User and system time of the proxy, in seconds. Work in softirqs isn't in it: it is charged
    /// to whoever happens to run.
    pub proxy: Option<f64>,
    /// All that the machine did.
    pub machine: f64,
}

pub struct Memory {
    /// Of the proxy's processes.
    pub process: u64,
    /// Slab and socket buffers, of the whole machine.
    pub kernel: u64,
    /// eBPF maps of the proxy's.
    pub maps: u64,
    /// How many the proxy's processes have.
    pub descriptors: u64,
}

impl Usage {
    pub fn of(pid: Option<Pid>) -> Self {
        Self(pid)
    }

    pub fn cpu(&self) -> Result<Cpu> {
        let mut ticks = 0;
        for pid in self.processes()? {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            ticks += process_ticks(&stat).context("reading /proc/PID/stat")?;
        }
        let stat = fs::read_to_string("/proc/stat")?;
        let machine = machine_ticks(&stat).context("reading /proc/stat")?;
        Ok(Cpu {
            proxy: self.0.map(|_| seconds(ticks)),
            machine: seconds(machine),
        })
    }

    pub fn memory(&self) -> Result<Memory> {
        let (mut process, mut descriptors) = (0, 0);
        let processes = self.processes()?;
        let maps = open::maps(&processes)?;
        for pid in processes {
            descriptors += open::descriptors(&pid)?;
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            process += kib(&rollup, "Pss:").context("smaps_rollup has Pss")?;
        }
        let slab = kib(&fs::read_to_string("/proc/meminfo")?, "Slab:");
        let sockets = fs::read_to_string("/proc/net/sockstat")?;
        let buffers = socket_pages(&sockets).context("sockstat has TCP's mem")?;
        let page = rustix::param::page_size() as u64;
        Ok(Memory {
            process,
            kernel: slab.context("meminfo has Slab")? + buffers * page,
            maps,
            descriptors,
        })
    }

    /// Bytes of the proxy's eBPF maps that a flow of UDP has, whether it is there or not.
    pub fn reserved(&self) -> Result<f64> {
        open::reserved(&self.processes()?, [MAX_DATAGRAM_FLOWS, spoken::LEN])
    }

    /// The process and its children.
    pub fn processes(&self) -> Result<Vec<String>> {
        let Some(pid) = self.0 else {
            return Ok(Vec::new());
        };
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let children = children.split_whitespace().map(str::to_owned);
        Ok([pid.to_string()].into_iter().chain(children).collect())
    }
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// utime and stime, fields 14 and 15; the name, field 2, may have blanks.
fn process_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// All but idle and iowait, and guests, which are in user.
fn machine_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.split_whitespace().skip(1).take(7);
    let fields: Vec<u64> = fields.map(|field| field.parse().unwrap_or(0)).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq] = fields[..] else {
        return None;
    };
    Some(user + nice + system + irq + softirq)
}

/// The bytes behind `key`, which the file counts in KiB.
fn kib(file: &str, key: &str) -> Option<u64> {
    let value = file.lines().find_map(|line| line.strip_prefix(key))?;
    Some(value.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn socket_pages(sockstat: &str) -> Option<u64> {
    let tcp = sockstat
        .lines()
        .find_map(|line| line.strip_prefix("TCP:"))?;
    tcp.rsplit_once("mem ")?.1.trim().parse().ok()
}
