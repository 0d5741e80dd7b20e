//! Connections whose first sequence number the test chooses, by what checkpoint/restore uses.

use std::ffi::c_int;
use std::io;
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result};

use super::netns::{Netns, patient, tcp_socket};
use super::poll::PATIENCE;
use super::raw;

/// Of linux/tcp.h.
const TCP_REPAIR: c_int = 19;
const TCP_REPAIR_QUEUE: c_int = 20;
const TCP_QUEUE_SEQ: c_int = 21;
const REPAIR_ON: c_int = 1;
/// Without a window probe, which a socket that isn't connected couldn't send.
const REPAIR_OFF: c_int = -1;
const SEND_QUEUE: c_int = 2;
const IPPROTO_TCP: c_int = 6;

/// The SYN has the number `first`, the header's first byte the one after it.
pub fn connect_numbered(
    netns: &Netns,
    source: SocketAddr,
    target: SocketAddr,
    first: u32,
) -> Result<TcpStream> {
    let stream = netns.enter(|| -> io::Result<TcpStream> {
        let socket = tcp_socket(target)?;
        socket.bind(&source.into())?;
        let set = |name, value| raw::set(&socket, IPPROTO_TCP, name, value);
        set(TCP_REPAIR, REPAIR_ON)?;
        set(TCP_REPAIR_QUEUE, SEND_QUEUE)?;
        set(TCP_QUEUE_SEQ, first.cast_signed())?;
        set(TCP_REPAIR, REPAIR_OFF)?;
        socket.connect_timeout(&target.into(), PATIENCE)?;
        Ok(socket.into())
    });
    let stream = stream.with_context(|| format!("connecting to {target} from number {first}"))?;
    patient(&stream)?;
    Ok(stream)
}
