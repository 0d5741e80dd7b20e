//! The only unsafe code of the daemon, and the system calls that need a word of explanation.

pub mod bpf;
pub mod inq;
pub mod memory;
pub mod tun;

use std::{
    fs::File,
    io,
    net::SocketAddr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixDatagram,
    },
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, getrlimit, pidfd_open, setrlimit};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::io::{Interest, unix::AsyncFd};

/// How long a connection may be silent before the kernel asks whether the peer is still there.
pub const KEEPALIVE: Duration = Duration::from_secs(300);

/// Another process, whoever has its number later.
pub struct Process(OwnedFd);

impl Process {
    pub fn open(pid: Pid) -> io::Result<Self> {
        Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
    }

    /// Nobody knows of one that can't be asked.
    pub fn is_alive(&self) -> bool {
        let mut ended = [PollFd::new(&self.0, PollFlags::IN)];
        matches!(poll(&mut ended, Some(&Timespec::default())), Ok(0))
    }
}

/// The network namespace of the calling thread.
pub fn current_netns() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

/// By what the kernel tells network namespaces apart, of the calling thread's.
pub fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0_u64;
    let mut len = libc::socklen_t::try_from(size_of_val(&cookie)).unwrap_or_default();
    // SAFETY: the kernel writes as many bytes as `cookie` has.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    match result {
        0 => Ok(cookie),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Moves the calling thread into a network namespace of its own.
pub fn unshare_netns() -> io::Result<()> {
    // SAFETY: only flags that split the file descriptor table could make another thread's
    // descriptors invalid; a network namespace doesn't.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(Into::into)
}

/// Moves the calling thread into `netns`. Sockets that it makes from now on live there.
pub fn enter_netns(netns: BorrowedFd<'_>) -> io::Result<()> {
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)).map_err(Into::into)
}

/// A TCP socket whose abrupt end is a reset: when the daemon dies or drops a connection midway,
/// neither side may take the cut for a proper end. [`end_cleanly`] is the way to say goodbye.
fn resetting_socket(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_nodelay(true)?;
    // The relay has no way to pass an urgent byte on as such: it stays where it is among the others.
    socket.set_out_of_band_inline(true)?;
    inq::tell(&socket)?;
    Ok(socket)
}

/// One whose peer may be another host, which can vanish without a word.
pub fn tcp_socket(domain: Domain) -> io::Result<Socket> {
    let socket = resetting_socket(domain)?;
    keep_alive(&socket)?;
    Ok(socket)
}

pub fn keep_alive(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))
}

/// A listener whose accepted sockets inherit all that [`tcp_socket`] sets. `shared` lets others
/// of ours listen at the same address, one for each worker.
pub fn listener(addr: SocketAddr, shared: bool, only_v6: bool) -> io::Result<Socket> {
    let socket = bound(addr, shared, only_v6)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// What becomes a [`listener`]. Nobody can connect yet; it fails where somebody listens already.
pub fn bound(addr: SocketAddr, shared: bool, only_v6: bool) -> io::Result<Socket> {
    let socket = tcp_socket(Domain::for_address(addr))?;
    if addr.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// The kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = u16::MAX as i32;

/// Lets it have addresses that are not this namespace's own.
pub fn set_transparent(socket: &Socket, domain: Domain) -> io::Result<()> {
    if domain == Domain::IPV6 {
        socket.set_ip_transparent_v6(true)
    } else {
        socket.set_ip_transparent_v4(true)
    }
}

/// A socket that may bind to addresses that are not this namespace's own. Its peer is taken to be on
/// this host: [`keep_alive`] is for others.
pub fn transparent_socket(domain: Domain) -> io::Result<Socket> {
    let socket = resetting_socket(domain)?;
    set_transparent(&socket, domain)?;
    // Another upstream socket may have the same client's address and port, towards another target.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// Lets the kernel deliver what is still queued and close in order when the socket is dropped.
pub fn end_cleanly(socket: impl AsFd) -> io::Result<()> {
    socket2::SockRef::from(&socket).set_linger(None)
}

/// Wakes when there is something to read.
pub fn readable<T: AsFd + AsRawFd>(source: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `AsFd` promises a descriptor that stays open and the same as long as `source` does,
    // and the `AsyncFd` owns it.
    let registered = unsafe { AsyncFd::register_with_interest(source, Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}

/// How many files this process has open.
pub fn open_files() -> u64 {
    let open = std::fs::read_dir("/proc/self/fd").map(Iterator::count);
    open.unwrap_or_default() as u64
}

/// Raises the limit of open files to the hard limit and returns it.
pub fn raise_nofile() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

/// What a daemon has open before its first connection, and some room.
pub const LEAST_NOFILE: u64 = 256;

/// What a system call of libc's returned.
fn succeeded(done: libc::c_int) -> io::Result<()> {
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
