//! Senders that nobody reads from.

use std::ffi::c_int;
use std::io::{self, ErrorKind, Write as _};
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

use anyhow::{Result, bail, ensure};

use super::payload::Payload;
use super::poll;

const PIECE: usize = 1 << 20;

/// Writes from `start` on until the connection takes no more, and fails if that is more than `most`;
/// returns where it was.
pub fn fill(to: &TcpStream, payload: &Payload, start: usize, most: usize) -> Result<usize> {
    let mut at = start;
    to.set_nonblocking(true)?;
    poll::until("the sender to stall", || {
        loop {
            match (&*to).write(payload.piece(at, PIECE)) {
                Ok(count) => at += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => bail!("writing to a stalled reader: {error}"),
            }
            ensure!(at - start < most, "nothing stops the sender");
        }
        Ok(is_stalled(to)?.then_some(()))
    })?;
    to.set_nonblocking(false)?;
    Ok(at)
}

/// Whether all that was sent has been acknowledged, and what is left may not be sent: the other side's
/// window is closed.
fn is_stalled(sender: &TcpStream) -> io::Result<bool> {
    const SIOCOUTQNSD: libc::Ioctl = 0x894b;
    let unsent = queued(sender, SIOCOUTQNSD)?;
    Ok(unsent > 0 && queued(sender, libc::TIOCOUTQ)? == unsent)
}

/// Whether the other side has acknowledged all that was sent.
pub fn is_acknowledged(sender: &TcpStream) -> io::Result<bool> {
    Ok(queued(sender, libc::TIOCOUTQ)? == 0)
}

fn queued(sender: &TcpStream, which: libc::Ioctl) -> io::Result<c_int> {
    let mut bytes: c_int = 0;
    // SAFETY: the kernel writes an int through the pointer, which is to one.
    match unsafe { libc::ioctl(sender.as_raw_fd(), which, &raw mut bytes) } {
        0 => Ok(bytes),
        _ => Err(io::Error::last_os_error()),
    }
}
