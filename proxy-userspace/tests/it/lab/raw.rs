//! Packet sockets, and the options that no crate has.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};
use rustix::net::netdevice::name_to_index;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use super::netns::Netns;

/// `ETH_P_ALL` of linux/if_ether.h, in network order as packet(7) wants it.
const EVERYTHING: u16 = 0x0003_u16.to_be();
/// Of linux/if_packet.h.
const SOL_PACKET: c_int = 263;
const PACKET_QDISC_BYPASS: c_int = 20;
const PACKET_IGNORE_OUTGOING: c_int = 23;
/// Of memory that is taken only while it is filled.
const BUFFER: c_int = 64 << 20;

/// Sees every packet on every device of a namespace, without the header of the link layer.
pub fn tap(netns: &Netns) -> Result<Socket> {
    let protocol = Some(Protocol::from(i32::from(EVERYTHING)));
    let open = || Socket::new(Domain::PACKET, Type::DGRAM, protocol);
    let socket = netns.enter(open).context("listening to all packets")?;
    // More than others may have: packets come faster than a busy machine runs who reads them.
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER)?;
    Ok(socket)
}

/// The same for what comes in only.
pub fn tap_ingress(netns: &Netns) -> Result<Socket> {
    let socket = tap(netns)?;
    set(&socket, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
    Ok(socket)
}

/// The next packet of a tap, and the index of the device that it came by.
pub fn receive(tap: &Socket, packet: &mut [u8]) -> io::Result<(usize, u32)> {
    let mut from = SockAddrStorage::zeroed();
    let mut length = from.size_of();
    // SAFETY: the kernel writes no more than it is told that there is room for, into memory that is there.
    let read = unsafe {
        libc::recvfrom(
            tap.as_raw_fd(),
            packet.as_mut_ptr().cast(),
            packet.len(),
            0,
            (&raw mut from).cast(),
            &raw mut length,
        )
    };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: as below; the kernel has written one.
    let address = unsafe { from.view_as::<libc::sockaddr_ll>() };
    let device = address.sll_ifindex.try_into().map_err(io::Error::other)?;
    Ok((read, device))
}

/// Sends whole frames by `device`, past its queueing; hears nothing. What is made of a frame on its way
/// counts as this socket's until it is gone, and may wait seconds for a neighbour who doesn't answer.
pub fn sender(netns: &Netns, device: &str) -> Result<Socket> {
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        let index = name_to_index(&socket, device)?;
        socket.bind(&link_layer(index)?)?;
        set(&socket, SOL_PACKET, PACKET_QDISC_BYPASS, 1)?;
        set(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER)?;
        Ok(socket)
    };
    netns
        .enter(open)
        .with_context(|| format!("opening {device} for frames"))
}

fn link_layer(index: u32) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the address types that a storage is made for, in size and
    // alignment, and all zero is one.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = u16::try_from(libc::AF_PACKET).expect("a small number");
    address.sll_ifindex = index.try_into().map_err(io::Error::other)?;
    let length = size_of::<libc::sockaddr_ll>().try_into();
    // SAFETY: the address has just been written into it, and is that long.
    Ok(unsafe { SockAddr::new(storage, length.map_err(io::Error::other)?) })
}

pub fn set(socket: &impl AsFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads an int through the pointer, which is to one.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            c_int::BITS / 8,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
