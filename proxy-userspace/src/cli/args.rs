//! What can be typed.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use super::{
    address,
    each::EachArgs,
    value::{close_after, count, duration, group, handover, header_max_len, name, steer},
};
use crate::{
    config::{CloseAfter, Direct, Outsiders, parse_prefix},
    header::Policy,
    netns::SteerNet,
    relay::{Fallback, OnLocal},
};

/// Shows the real client's address to servers behind a PROXY protocol load balancer.
#[derive(Debug, Parser)]
#[command(name = "truepeer", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve: take connections of balancers, connect to the application from the client's address
    Run(Box<RunArgs>),
    /// Say what would keep these flags of `run` from working; exit 1 if something would
    Check(Box<CheckArgs>),
    /// Show or change who may connect, live and also while nothing runs
    Allow(AllowArgs),
    /// Refuse clients, and end what they have open; live and also while nothing runs
    Deny(DenyArgs),
    /// Show what the running daemon serves and has counted, or which instances there are
    Status(StatusArgs),
    /// List the connections that are open, with what their headers said
    Connections(ShowArgs),
    /// Take nobody new, as balancers' checks see, while what is open goes on: one service, or all
    Drain(DrainArgs),
    /// Serve again after a drain
    Undrain(DrainArgs),
    /// Have the running daemon read its configuration and lists again: services come, go and change, and what is open
    /// goes on
    Reload(ReloadArgs),
    /// Print a configuration file that has everything, with what it is for
    ExampleConfig,
    /// Remove what an instance has left that doesn't run any more: its lists, its files
    Forget(InstanceArgs),
    /// Holds what a daemon has, and outlives it. Only daemons start it
    #[command(hide = true)]
    Keeper(InstanceArgs),
}

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// All, if none is named
    pub service: Option<String>,
    #[command(flatten)]
    pub instance: InstanceArgs,
}

#[derive(Debug, Args)]
pub struct ReloadArgs {
    #[command(flatten)]
    pub instance: InstanceArgs,
    /// Only says what would change
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct InstanceArgs {
    /// Tells several daemons on one host apart
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = name)]
    pub instance: String,
}

#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// A file that has any number of services, instead of flags: see `truepeer example-config`
    #[arg(short, long, value_name = "FILE", conflicts_with_all = RunArgs::KEYS)]
    pub config: Option<PathBuf>,
    /// Where balancers connect to
    #[arg(short, long, value_name = "ADDR:PORT", required_unless_present = "config", num_args = 1.., value_parser = address::parse::<SocketAddr>)]
    pub listen: Vec<SocketAddr>,
    /// The application's IPv4 address, for IPv4 clients
    #[arg(short = '4', long, value_name = "ADDR:PORT", required_unless_present_any = ["target6", "config"], value_parser = address::parse::<SocketAddrV4>)]
    pub target4: Option<SocketAddrV4>,
    /// The application's IPv6 address, for IPv6 clients
    #[arg(short = '6', long, value_name = "[ADDR]:PORT", value_parser = address::parse::<SocketAddrV6>)]
    pub target6: Option<SocketAddrV6>,
    /// What balancers speak
    #[arg(short, long, value_enum, default_value_t)]
    pub protocol: Protocol,
    /// A balancer's address or network; nobody else can connect
    #[arg(long, value_name = "CIDR", num_args = 1.., value_delimiter = ',', value_parser = parse_prefix)]
    pub allow: Vec<IpNet>,
    /// A file of such, one a line
    #[arg(long, value_name = "FILE", num_args = 1.., visible_aliases = ["allowed-subnets", "allowed-networks"])]
    pub allow_file: Vec<PathBuf>,
    /// A file that keeps what `truepeer allow` changes, also when this host starts again
    #[arg(long, value_name = "FILE")]
    pub allow_state: Option<PathBuf>,
    /// A client's address or network; its connections are reset, whoever the balancer is
    #[arg(long, value_name = "CIDR", num_args = 1.., value_delimiter = ',', value_parser = parse_prefix)]
    pub deny: Vec<IpNet>,
    /// A file of such, one a line
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub deny_file: Vec<PathBuf>,
    /// Which header to take: a version of the PROXY protocol's (UDP has no v1, and any is v2 there), v2 in
    /// front of the first datagram only (Cloudflare Spectrum's), or Cloudflare's Simple Proxy Protocol
    #[arg(long, value_enum, default_value_t)]
    pub header: HeaderVersions,
    /// UDP: how long a client may be silent, and be answered to, before it is forgotten [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = close_after)]
    pub close_after: Option<CloseAfter>,
    /// Who is no balancer, at a listen address: refused, or the application's, which may listen there itself [default:
    /// refuse]. UDP: whom the application may answer besides balancers' clients and this host itself [default: refuse
    /// for a target at a loopback address, app for others]
    #[arg(long, value_enum)]
    pub outsiders: Option<Outsiders>,
    /// A device whose driver drops who is no balancer, by XDP: SYNs, and datagrams
    #[arg(long, value_name = "DEVICE", num_args = 1.., value_delimiter = ',')]
    pub guard: Vec<String>,
    /// How long a balancer may take for the whole header, from accept on
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub header_timeout: Duration,
    /// Longest v2 header to take, 536 to 65551 (client certificates in TLVs need some 1300)
    #[arg(long, value_name = "BYTES", default_value_t = Policy::DEFAULT_MAX_LEN, value_parser = header_max_len)]
    pub header_max_len: usize,
    /// A header that names no client (LOCAL, UNKNOWN): connect from the balancer's address, or refuse
    #[arg(long, value_enum, default_value_t)]
    pub on_local: LocalChoice,
    /// A client of a family without a target: refuse, or connect from this host's own address to the
    /// other family's target
    #[arg(long, value_enum, default_value_t)]
    pub on_no_target: FallbackChoice,
    /// A client that can't exist (loopback, multicast, this host, ...): refuse, or connect from this
    /// host's own address, which applications may trust
    #[arg(long, value_enum, default_value_t)]
    pub on_martian: FallbackChoice,
    /// How long the application may take to accept
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub connect_timeout: Duration,
    /// How long open connections may go on after SIGTERM
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub drain_timeout: Duration,
    /// How long open direct connections may go on without a daemon, should this one be killed. The next
    /// start within this time continues them
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub orphan_timeout: Duration,
    /// Who may see `status` and `connections`, besides root
    #[arg(long, value_name = "GROUP", value_parser = group)]
    pub status_group: Option<u32>,
    /// Continue the instance that runs: no connection is cut, and its daemon ends
    #[arg(long)]
    pub take_over: bool,
    /// Most connections at one time; more wait to be accepted [default: what the limit of open files allows].
    /// UDP: most clients that are remembered; a new one takes the place of an idle one [default: 131071]
    #[arg(long, value_name = "N", value_parser = count)]
    pub maxconn: Option<NonZeroUsize>,
    #[command(flatten)]
    pub each: EachArgs,
    /// Have the kernel make the application's connection of the balancer's by itself
    #[arg(long, value_enum, default_value_t)]
    pub direct: Direct,
    /// The name of what `--direct` has taken the place of
    #[arg(long, value_name = "WHETHER", hide = true, value_parser = handover)]
    pub handover: Option<String>,
    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N", visible_alias = "listeners", value_parser = count)]
    pub workers: Option<NonZeroUsize>,
    /// Network of the IPv4 addresses that applications answer to [default: 169.254.80.80/28]
    #[arg(long, value_name = "CIDR", value_parser = steer::<false>)]
    pub steer4: Option<SteerNet>,
    /// Network of the IPv6 addresses that applications answer to [default: fd74:7275:6570::1/112]
    #[arg(long, value_name = "CIDR", value_parser = steer::<true>)]
    pub steer6: Option<SteerNet>,
    /// Tells several daemons on one host apart [default: default, or the file's]
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub instance: Option<String>,
    /// Log every connection; twice: every step
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
    /// Taken for the sake of go-mmproxy's command lines: truepeer needs no mark
    #[arg(long, value_name = "N", hide = true)]
    pub mark: Option<u32>,
}

impl RunArgs {
    /// Flags that a file has keys for instead; it may name the instance, too.
    pub const KEYS: [&str; 31] = [
        "allow",
        "allow_file",
        "allow_state",
        "close_after",
        "connect_timeout",
        "deny",
        "deny_file",
        "direct",
        "drain_timeout",
        "guard",
        "header",
        "header_max_len",
        "header_timeout",
        "listen",
        "maxconn",
        "maxconn_per_balancer",
        "maxconn_per_client",
        "maxconnrate_per_balancer",
        "maxconnrate_per_client",
        "on_local",
        "on_martian",
        "on_no_target",
        "orphan_timeout",
        "outsiders",
        "protocol",
        "status_group",
        "steer4",
        "steer6",
        "target4",
        "target6",
        "workers",
    ];
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub run: RunArgs,
    /// Machine-readable
    #[arg(long)]
    pub json: bool,
    /// Only read what was written, with no privilege and anywhere
    #[arg(long, conflicts_with_all = ["client", "json"])]
    pub config_only: bool,
    /// Say as well whether this client's connections can be served
    #[arg(long, value_name = "ADDR", num_args = 1.., value_parser = address::alone)]
    pub client: Vec<IpAddr>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum HeaderVersions {
    #[default]
    Any,
    V1,
    V2,
    V2First,
    Spp,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum LocalChoice {
    #[default]
    Balancer,
    Reject,
}

impl From<LocalChoice> for OnLocal {
    fn from(choice: LocalChoice) -> Self {
        match choice {
            LocalChoice::Balancer => Self::Balancer,
            LocalChoice::Reject => Self::Reject,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FallbackChoice {
    #[default]
    Reject,
    Unspoofed,
}

impl From<FallbackChoice> for Fallback {
    fn from(choice: FallbackChoice) -> Self {
        match choice {
            FallbackChoice::Reject => Self::Reject,
            FallbackChoice::Unspoofed => Self::Unspoofed,
        }
    }
}

#[derive(Debug, Args)]
pub struct AllowArgs {
    #[command(subcommand)]
    pub verb: AllowVerb,
    #[command(flatten)]
    pub instance: ListArgs,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Whose list
    #[arg(long, global = true, value_name = "NAME", default_value = "default", value_parser = name)]
    pub instance: String,
    /// Which of its services
    #[arg(long, global = true, value_name = "NAME", default_value = "default")]
    pub service: String,
}

#[derive(Debug, Subcommand)]
pub enum AllowVerb {
    /// Print each prefix and where it comes from
    List(ListFormat),
    /// Let balancers in, from the next connection or datagram on
    Add(Prefixes),
    /// Let balancers in no longer, from the next connection or datagram on
    Remove(Fewer),
    /// Make these the only ones: whoever is on both lists, or on neither, notices nothing
    Replace(Fewer),
    /// Ask whether an address or network may connect; exit 1 if not
    Test(Prefixes),
}

#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true)]
pub struct DenyArgs {
    #[command(subcommand)]
    pub verb: Option<DenyVerb>,
    /// The same as `add`
    #[arg(value_name = "CIDR", required = true, value_delimiter = ',', value_parser = parse_prefix)]
    pub prefixes: Vec<IpNet>,
    #[command(flatten)]
    pub instance: ListArgs,
}

#[derive(Debug, Subcommand)]
pub enum DenyVerb {
    /// Print each prefix and where it comes from
    List(ListFormat),
    /// Refuse clients from now on, and end their open connections
    Add(Prefixes),
    /// Refuse them no longer
    Remove(Prefixes),
    /// Make these the only ones
    Replace(Prefixes),
    /// Ask whether an address or network is refused; exit 1 if not
    Test(Prefixes),
}

#[derive(Debug, Args)]
pub struct Prefixes {
    #[arg(value_name = "CIDR", required_unless_present = "file", value_delimiter = ',', value_parser = parse_prefix)]
    pub prefixes: Vec<IpNet>,
    /// A file of such, one a line
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub file: Vec<PathBuf>,
}

/// Prefixes that leave somebody out who could connect.
#[derive(Debug, Args)]
pub struct Fewer {
    #[command(flatten)]
    pub prefixes: Prefixes,
    /// And end what balancers have open that aren't on the service's list any more
    #[arg(long)]
    pub and_close: bool,
}

#[derive(Debug, Args)]
pub struct ListFormat {
    /// Machine-readable
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// List the instances of this host, also those that don't run
    #[arg(long, conflicts_with = "instance")]
    pub all: bool,
    #[command(flatten)]
    pub show: ShowArgs,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Machine-readable
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub instance: InstanceArgs,
}
