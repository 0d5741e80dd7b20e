//! The only unsafe code of the daemon, and the system calls that need a word of explanation.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::io::{Interest, unix::AsyncFd};

/// How long a connection may be silent before the kernel asks whether the peer is still there.
pub const KEEPALIVE: Duration = Duration::from_secs(300);

/// The network namespace of the calling thread.
pub fn current_netns() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
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

/// A socket that may bind to addresses that are not this namespace's own. Its peer is taken to be on
/// this host: [`keep_alive`] is for others.
pub fn transparent_socket(domain: Domain) -> io::Result<Socket> {
    let socket = resetting_socket(domain)?;
    if domain == Domain::IPV6 {
        socket.set_ip_transparent_v6(true)?;
    } else {
        socket.set_ip_transparent_v4(true)?;
    }
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

/// What TCP's timestamps take of each segment.
pub const TIMESTAMP_BYTES: u32 = 12;

/// A TCP connection as its socket has it.
#[derive(Clone, Copy, Debug)]
pub struct TcpState {
    pub established: bool,
    /// The sequence numbers of the next byte to send and to receive.
    pub sent: u32,
    pub received: u32,
    /// Bytes that nobody has read yet.
    pub unread: u32,
    /// Bytes that the peer takes beyond those that were written, by the last window that it has shown.
    pub room: u32,
    pub options: TcpOptions,
    /// The window scales: what the peer's windows are sent in, and ours.
    pub peer_scale: u16,
    pub scale: u16,
    /// The segments that the peer takes, and that we have said we take.
    pub mss: u32,
    pub mss_expected: u32,
    /// What its timestamps are ahead of the kernel's clock in milliseconds.
    pub clock: u32,
}

/// What both sides have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions(u8);

impl TcpOptions {
    // TCPI_OPT_ of linux/tcp.h.
    const TIMESTAMPS: u8 = 1;
    const SACK: u8 = 2;
    const ECN: u8 = 8;
    const USEC_TS: u8 = 64;

    /// Whether timestamps, if there are any, count milliseconds.
    pub const fn milliseconds(self) -> bool {
        self.0 & Self::USEC_TS == 0
    }
}

/// See [`TcpState::room`].
pub fn room(socket: impl AsFd) -> io::Result<u32> {
    let socket = socket.as_fd();
    room_of(&tcp_info(socket)?, socket)
}

fn room_of(info: &libc::tcp_info, socket: BorrowedFd<'_>) -> io::Result<u32> {
    let window = info.tcpi_snd_wnd;
    Ok(window.saturating_sub(unacknowledged(socket)?))
}

fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    // SAFETY: it is made of integers.
    unsafe { get(socket, libc::IPPROTO_TCP, libc::TCP_INFO) }
}

/// Needs CAP_NET_ADMIN.
pub fn tcp_state(socket: impl AsFd) -> io::Result<TcpState> {
    const ESTABLISHED: u8 = 1;
    let socket = socket.as_fd();
    let (sent, received, unread) = with_repair(socket, || sequence(socket))??;
    // Afterwards: a FIN would be one of the numbers, and no byte that is unread.
    let info = tcp_info(socket)?;
    let options = info.tcpi_options
        & (TcpOptions::TIMESTAMPS | TcpOptions::SACK | TcpOptions::ECN | TcpOptions::USEC_TS);
    let timestamps = u32::from(options & TcpOptions::TIMESTAMPS) * TIMESTAMP_BYTES;
    let room = room_of(&info, socket)?;
    // SAFETY: an integer.
    let shown: u32 = unsafe { get(socket, libc::IPPROTO_TCP, libc::TCP_TIMESTAMP) }?;
    Ok(TcpState {
        established: info.tcpi_state == ESTABLISHED,
        sent,
        received,
        unread,
        room,
        options: TcpOptions(options),
        peer_scale: (info.tcpi_snd_rcv_wscale & 15).into(),
        scale: (info.tcpi_snd_rcv_wscale >> 4).into(),
        mss: info.tcpi_snd_mss + timestamps,
        mss_expected: info.tcpi_advmss,
        clock: shown.wrapping_sub(milliseconds()),
    })
}

/// The sequence numbers of the next byte to send and to receive, and how many are to be read.
fn sequence(socket: BorrowedFd<'_>) -> io::Result<(u32, u32, u32)> {
    // Of enum in linux/tcp.h.
    const RECEIVED: libc::c_int = 1;
    const SENT: libc::c_int = 2;
    let number = |queue: libc::c_int| {
        set(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, queue)?;
        // SAFETY: an integer.
        unsafe { get::<u32>(socket, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ) }
    };
    let sent = number(SENT)?;
    // Both belong together only if nothing came in between.
    let mut received = number(RECEIVED)?;
    loop {
        let bytes = unread(socket)?;
        let again = number(RECEIVED)?;
        if again == received {
            return Ok((sent, received, bytes));
        }
        received = again;
    }
}

/// Asks the peer whether it is there. Needs CAP_NET_ADMIN.
pub fn probe(socket: impl AsFd) -> io::Result<()> {
    let socket = socket.as_fd();
    set(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, REPAIR_ON)?;
    set(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, REPAIR_OFF)?;
    socket2::SockRef::from(&socket).set_reuse_address(true)
}

// Of linux/tcp.h. The last one sends nothing.
const REPAIR_ON: libc::c_int = 1;
const REPAIR_OFF: libc::c_int = 0;
const REPAIR_OFF_QUIETLY: libc::c_int = -1;

fn with_repair<R>(socket: BorrowedFd<'_>, f: impl FnOnce() -> R) -> io::Result<R> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, REPAIR_ON)?;
    let result = f();
    set(
        socket,
        libc::IPPROTO_TCP,
        libc::TCP_REPAIR,
        REPAIR_OFF_QUIETLY,
    )?;
    // The kernel has forgotten it.
    socket2::SockRef::from(&socket).set_reuse_address(true)?;
    Ok(result)
}

/// Bytes that have come and that nobody has read.
pub fn unread(socket: impl AsFd) -> io::Result<u32> {
    let bytes = rustix::io::ioctl_fionread(socket)?;
    Ok(u32::try_from(bytes).unwrap_or(u32::MAX))
}

/// Bytes that were written and not acknowledged.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, by its other name, writes one integer.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    succeeded(done)?;
    Ok(u32::try_from(bytes).unwrap_or_default())
}

/// What the kernel's timestamps count.
fn milliseconds() -> u32 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let milliseconds = now.tv_sec * 1000 + now.tv_nsec / 1_000_000;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "timestamps go round"
    )]
    {
        milliseconds as u32
    }
}

/// # Safety
///
/// Any bytes have to be a valid `T`, and zeros have to be.
unsafe fn get<T>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<T> {
    // SAFETY: the caller's promise.
    let mut value: T = unsafe { std::mem::zeroed() };
    let mut len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `len` bytes, all of them in `value`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    succeeded(done)?;
    Ok(value)
}

fn set(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `len` bytes of `value`.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            len,
        )
    };
    succeeded(done)
}

/// What a system call of libc's returned.
fn succeeded(done: libc::c_int) -> io::Result<()> {
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
