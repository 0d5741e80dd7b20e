//! Who listens at an address, as far as /proc tells.

use std::{
    fmt, fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use crate::config::Transport;

/// A process that holds a socket.
#[derive(Debug)]
pub struct Holder {
    name: String,
    pid: u32,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

impl Transport {
    const fn tables(self) -> [&'static str; 2] {
        match self {
            Self::Tcp => ["tcp", "tcp6"],
            Self::Udp => ["udp", "udp6"],
        }
    }

    /// The state of one that hears anybody.
    const fn listens(self) -> &'static str {
        match self {
            Self::Tcp => "0A",
            Self::Udp => "07",
        }
    }
}

pub fn of(listen: SocketAddr, among: Transport) -> Option<Holder> {
    let socket = format!("socket:[{}]", inode(listen, among)?);
    fs::read_dir("/proc").ok()?.find_map(|entry| {
        let path = entry.ok()?.path();
        let pid = path.file_name()?.to_str()?.parse().ok()?;
        let name = || fs::read_to_string(path.join("comm")).unwrap_or_default();
        holds(&path, &socket).then(|| Holder {
            name: name().trim().to_owned(),
            pid,
        })
    })
}

fn holds(process: &Path, socket: &str) -> bool {
    let Ok(mut fds) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    fds.any(|fd| {
        let link = fd.and_then(|fd| fs::read_link(fd.path()));
        link.is_ok_and(|link| link == Path::new(socket))
    })
}

/// Of the socket that listens there, or at all addresses.
fn inode(listen: SocketAddr, among: Transport) -> Option<u64> {
    let tables = among
        .tables()
        .map(|table| format!("/proc/thread-self/net/{table}"));
    let tables = tables.map(|table| fs::read_to_string(table).unwrap_or_default());
    let mut lines = tables.iter().flat_map(|table| table.lines().skip(1));
    lines.find_map(|line| inode_if(line, listen, among.listens()))
}

/// `sl: LOCAL:PORT REMOTE:PORT STATE queues timer retransmits uid timeout INODE …`
fn inode_if(line: &str, listen: SocketAddr, listens: &str) -> Option<u64> {
    let mut fields = line.split_whitespace().skip(1);
    let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    let (address, port) = local.split_once(':')?;
    let address = parse(address)?.to_canonical();
    let wildcard = address.is_unspecified() || listen.ip().is_unspecified();
    let same = u16::from_str_radix(port, 16) == Ok(listen.port())
        && (wildcard || address == listen.ip().to_canonical());
    (same && state == listens).then(|| fields.nth(5)?.parse().ok())?
}

/// Words of 32 bits, each as this machine stores it.
fn parse(hex: &str) -> Option<IpAddr> {
    const WORD: usize = 8;
    let mut octets = Vec::new();
    for start in (0..hex.len()).step_by(WORD) {
        let word = u32::from_str_radix(hex.get(start..start + WORD)?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
    }
}
