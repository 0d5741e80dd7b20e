//! What a descriptor is. The kernel tells its holder, so that nobody has to believe a name.

use std::{
    fs,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, netlink, sockopt};
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use crate::kernel::{LinkPlace, MapShape};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Map(MapShape),
    Link(LinkPlace),
    Listener(SocketAddr),
    /// A network namespace, by its inode.
    Namespace(u64),
    /// A TUN device, by its name.
    Tun(String),
    /// Asks sock_diag of a namespace's sockets.
    SockDiag,
}

impl Kind {
    pub fn of(fd: impl AsFd) -> Result<Self> {
        let fd = fd.as_fd();
        let number = fd.as_raw_fd();
        let file =
            fs::read_link(format!("/proc/self/fd/{number}")).context("reading /proc/self/fd")?;
        let file = file.to_string_lossy();
        let info = || {
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
            Ok::<_, anyhow::Error>(Info(text.context("reading /proc/self/fdinfo")?))
        };
        match file.split_once(':').unwrap_or((&*file, "")) {
            ("anon_inode", "bpf-map") => Ok(Self::Map(shape(&info()?)?)),
            ("anon_inode", "bpf_link" | "bpf-link") => Ok(Self::Link(place(&info()?)?)),
            ("net", inode) => Ok(Self::Namespace(inode_of(inode)?)),
            ("socket", _) if is_sock_diag(fd)? => Ok(Self::SockDiag),
            ("socket", _) => listener(fd),
            ("/dev/net/tun", _) => Ok(Self::Tun(info()?.word("iff")?.to_owned())),
            _ => bail!("{file} is nothing that a keeper holds"),
        }
    }
}

/// The number in `[4026531840]`.
fn inode_of(text: &str) -> Result<u64> {
    let number = text.trim_start_matches('[').trim_end_matches(']');
    number.parse().context("a namespace without a number")
}

fn is_sock_diag(fd: BorrowedFd<'_>) -> Result<bool> {
    let is_netlink = sockopt::socket_domain(fd)? == AddressFamily::NETLINK;
    Ok(is_netlink && sockopt::socket_protocol(fd)? == Some(netlink::SOCK_DIAG))
}

fn listener(fd: BorrowedFd<'_>) -> Result<Kind> {
    let socket = SockRef::from(&fd);
    if !socket.is_listener()? {
        bail!("a socket that doesn't listen is nothing that a keeper holds");
    }
    let address = socket.local_addr()?.as_socket();
    Ok(Kind::Listener(address.context("a listener without an IP")?))
}

/// Lines of a name, a colon and a value.
struct Info(String);

impl Info {
    fn word(&self, name: &str) -> Result<&str> {
        self.find(name)
            .with_context(|| format!("the kernel doesn't tell a descriptor's {name}"))
    }

    fn find(&self, name: &str) -> Option<&str> {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(found, _)| *found == name)?;
        value.split_whitespace().next()
    }

    fn number(&self, name: &str) -> Result<u64> {
        number(self.word(name)?).with_context(|| format!("a descriptor's {name} is no number"))
    }

    fn small(&self, name: &str) -> Result<u32> {
        Ok(u32::try_from(self.number(name)?)?)
    }
}

fn number(text: &str) -> Result<u64> {
    Ok(match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16)?,
        None => text.parse()?,
    })
}

fn shape(info: &Info) -> Result<MapShape> {
    Ok(MapShape {
        map_type: info.small("map_type")?,
        key_size: info.small("key_size")?,
        value_size: info.small("value_size")?,
        max_entries: info.small("max_entries")?,
        flags: info.small("map_flags")?,
    })
}

fn place(info: &Info) -> Result<LinkPlace> {
    let targets = ["ifindex", "netns_ino", "cgroup_id"];
    let target = targets.into_iter().find_map(|name| info.find(name));
    Ok(LinkPlace {
        link_type: info.word("link_type")?.to_owned(),
        target: number(target.context("a link to an unknown place")?)?,
        // XDP has one alone, and doesn't tell.
        attach_type: info.find("attach_type").map_or(Ok(0), number)?.try_into()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // As Linux 6.18 writes them.
    const MAP: &str = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t2087\nmap_type:\t1\n\
        key_size:\t36\nvalue_size:\t56\nmax_entries:\t131072\nmap_flags:\t0x1\nmap_extra:\t0x0\n\
        memlock:\t1179648\nmap_id:\t7\nfrozen:\t0\n";
    const LINK: &str = "pos:\t0\nlink_type:\ttcx\nlink_id:\t3\nprog_tag:\t4a5b\nprog_id:\t9\n\
        ifindex:\t5\nattach_type:\t46 (ingress)\n";

    #[test]
    fn reads_what_the_kernel_tells() {
        let map = shape(&Info(MAP.into())).expect("a map");
        let MapShape {
            map_type,
            key_size,
            value_size,
            max_entries,
            flags,
        } = map;
        assert_eq!((map_type, key_size, value_size), (1, 36, 56));
        assert_eq!((max_entries, flags), (131_072, 1));
        let link = place(&Info(LINK.into())).expect("a link");
        assert_eq!(
            (&*link.link_type, link.target, link.attach_type),
            ("tcx", 5, 46)
        );
        assert!(place(&Info(MAP.into())).is_err());
    }

    #[test]
    fn tells_real_ones_apart() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("an address");
        assert_eq!(Kind::of(&listener).ok(), Some(Kind::Listener(address)));
        let client = std::net::TcpStream::connect(address).expect("a connection");
        assert!(Kind::of(&client).is_err());
        let netns = crate::sys::current_netns().expect("a namespace");
        assert!(matches!(Kind::of(&netns), Ok(Kind::Namespace(1..))));
        let file = fs::File::open("/dev/null").expect("a file");
        assert!(Kind::of(&file).is_err());
    }
}
