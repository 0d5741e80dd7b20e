//! What comes from the system's package manager, and what for. A test that needs another sender
//! adds its line here.

#[derive(Clone, Copy)]
pub struct Package<'a> {
    /// Debian's name for it.
    pub name: &'a str,
    /// What to look for on a system without apt; "" for what no program in PATH stands for.
    pub program: &'a str,
    pub why: &'a str,
}

const fn package<'a>(name: &'a str, program: &'a str, why: &'a str) -> Package<'a> {
    Package { name, program, why }
}

/// Debian's rustc for browsers, which is kept up to date and can compile for BPF.
pub const COMPILER: &[Package<'static>] = &[
    package("rustc-web", "", "compiles the eBPF programs"),
    package("libstd-rust-web-dev-bpf", "", "core for BPF"),
];

#[rustfmt::skip] // a table
pub const CLIPPY: &[Package<'static>] = &[
    package("rust-web-clippy", "cargo-clippy", "clippy for that rustc"),
];

#[rustfmt::skip] // a table
pub const TESTS: &[Package<'static>] = &[
    package("iproute2", "ip", "lays out the test networks"),
    package("ethtool", "ethtool", "switches offloads of the test networks off"),
    package("nftables", "nft", "the firewalls that truepeer must get past"),
    package("conntrack", "conntrack", "what firewalls believe, where /proc doesn't tell"),
    package("netbase", "", "the names of protocols, for nft"),
    package("util-linux", "setpriv", "starts truepeer without some capabilities"),
    package("bpftool", "bpftool", "shows which programs the kernel has"),
    package("procps", "sysctl", "kernel settings of the test networks"),
    package("curl", "curl", "a client, and a sender of PROXY headers"),
    package("haproxy", "haproxy", "a load balancer that sends PROXY headers"),
    package("nginx", "nginx", "a load balancer with its stream module, and an app"),
    package("libnginx-mod-stream", "", "nginx's PROXY headers for plain TCP"),
    package("varnish", "varnishd", "a cache that sends PROXY headers"),
    package("hitch", "hitch", "a TLS proxy that sends long PROXY headers"),
    package("stunnel4", "stunnel4", "a TLS proxy that sends PROXY headers"),
    package("dnsdist", "dnsdist", "a DNS balancer that sends PROXY headers"),
    package("unbound", "unbound", "a DNS server, an app of UDP"),
    package("bind9", "named", "another one, with larger answers"),
    package("bind9-utils", "dnssec-signzone", "signs a zone of it"),
    package("openssl", "openssl", "certificates for those, and a TLS client"),
    package("openssh-server", "sshd", "an app that logs its client"),
    package("openssh-client", "ssh", "talks to that app"),
    package("postfix", "postfix", "a mail server, an app that logs its client"),
    package("mariadb-server-core", "mariadbd", "a database, an app that tells its client"),
    package("mariadb-client-core", "mariadb", "talks to that app"),
    package("fail2ban", "fail2ban-server", "reads that log, and bans whom it finds there"),
    package("iptables", "iptables", "one of its ways to do so"),
];

#[rustfmt::skip] // a table
pub const BENCH: &[Package<'static>] = &[
    package("strace", "strace", "counts system calls"),
];

/// What fetches newer senders, the bench's peers, and QEMU.
#[rustfmt::skip] // a table
pub const PEERS: &[Package<'static>] = &[
    package("debootstrap", "debootstrap", "fetches newer senders, what to measure truepeer beside, and QEMU"),
    package("debian-archive-keyring", "", "tells that they are Debian's"),
];

/// For `cargo xtask test --kernel` only.
#[rustfmt::skip] // a table
pub const KERNELS: &[Package<'static>] = &[
    package("wireguard-tools", "wg", "tunnels, which those kernels have"),
    package("busybox-static", "busybox", "the shell in that machine"),
    package("dpkg", "dpkg-deb", "unpacks those kernels"),
    package("debian-archive-keyring", "", "tells that those kernels are Debian's"),
];

/// To build bpf-linker.
pub fn llvm(name: &str) -> [Package<'_>; 2] {
    [
        package("g++", "g++", "links LLVM's C++"),
        package(name, "", "the LLVM in bpf-linker, the same as in rustc"),
    ]
}
