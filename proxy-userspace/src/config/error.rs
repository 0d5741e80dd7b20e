//! What is wrong with a configuration, and what to write instead.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use ipnet::IpNet;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{path}:{line}:{column}: {what}", path = .path.display())]
    InFile {
        path: PathBuf,
        line: usize,
        column: usize,
        what: String,
    },
    #[error(
        "no allowlist: name the balancers with --allow CIDR or --allow-file FILE \
         (anyone at all is written --allow 0.0.0.0/0 --allow ::/0)"
    )]
    NoAllowlist,
    #[error(
        "the allowlist is empty: {0} has no CIDR prefix or address \
         (anyone at all is written 0.0.0.0/0 and ::/0)"
    )]
    EmptyAllowlist(String),
    #[error("can't read {path}: {error}")]
    Unreadable { path: PathBuf, error: io::Error },
    #[error(
        "{path}:{line}: {found:?} is no CIDR prefix or address, one of which each line has: {why}"
    )]
    BadLine {
        path: PathBuf,
        line: usize,
        found: String,
        why: String,
    },
    #[error(
        "listening at {listen} takes target {target} from the application: give truepeer and the \
         application different ports, or truepeer an address of its own"
    )]
    ListensAtTarget {
        listen: SocketAddr,
        target: SocketAddr,
    },
    #[error(
        "target {target} of UDP has the port of another one, {other}: give the applications different ports, or \
         serve one of them by an instance of its own"
    )]
    SamePort {
        target: SocketAddr,
        other: SocketAddr,
    },
    #[error(
        "target {0} has one service with --outsiders refuse and one with app: give both the same"
    )]
    OutsidersDiffer(SocketAddr),
    #[error("{0} is given twice as a listen address")]
    ListensTwice(SocketAddr),
    #[error("services {first} and {second} have the same --allow-state {path}: give each a file of its own", path = .path.display())]
    SameState {
        path: PathBuf,
        first: String,
        second: String,
    },
    #[error("target {0} is {why}, where no application can be: give its address", why = nowhere(.0.ip()))]
    NoTarget(SocketAddr),
    #[error("target {0} has port 0: give the application's port")]
    NoPort(SocketAddr),
    #[error("listening at {0} needs a port: give the one that balancers connect to")]
    NoListenPort(SocketAddr),
    #[error(
        "listening at {0}: no balancer can connect there; give an address that `ip address` shows, but no \
         link-local one of IPv6, or 0.0.0.0 or [::]"
    )]
    NoListen(SocketAddr),
    #[error(
        "{address} is in the steer network {net}, whose addresses are truepeer's own: give another one, or \
         choose another network by --steer4 or --steer6"
    )]
    SteerAddress { address: SocketAddr, net: IpNet },
    #[error(
        "at target {target} instance {instance} listens, and no client's connection goes to a listener of \
         truepeer's: give the application's own address and port"
    )]
    OthersListen {
        target: SocketAddr,
        instance: String,
    },
    #[error(
        "instance {instance} listens at {listen} as well, or has its target there, where one of both leaves outsiders to \
         the application: serve both by one instance, or give it another port"
    )]
    OthersShare {
        listen: SocketAddr,
        instance: String,
    },
    #[error(
        "outsiders are the application's at {shared}, and not at {alone}: give both services the same, or other ports"
    )]
    SharedAndNot {
        shared: SocketAddr,
        alone: SocketAddr,
    },
    #[error(
        "--guard drops whom --outsiders app lets through to the application: leave one of both out"
    )]
    GuardsOutsiders,
    #[error(
        "IPv6 is switched off on this host, and service {0} has no IPv4 target: switch it on, or give \
         --target4"
    )]
    NoFamily(String),
    #[error("the steer network {0} has too few addresses for the targets: choose a larger one")]
    SteerNetTooSmall(String),
    #[error("--header {0} is for UDP: add -p udp, or write any, v1 or v2")]
    HeaderOfUdp(&'static str),
    #[error("--header v1 has no word for UDP: write v2 (or any), v2-first or spp with -p udp")]
    HeaderOfTcp,
    #[error(
        "{0} unspoofed is for TCP: with -p udp such a client's datagrams are dropped, so leave it out"
    )]
    UnspoofedUdp(&'static str),
}

/// What an address is that nobody can connect to.
fn nowhere(address: IpAddr) -> &'static str {
    match address {
        _ if address.is_unspecified() => "every address of the host and none of them",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "an address of no host",
        IpAddr::V4(_) => "a broadcast address",
        IpAddr::V6(_) => "a link-local address, which means nothing without its link",
    }
}
