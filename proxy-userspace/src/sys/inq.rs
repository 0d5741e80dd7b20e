//! Reading from a TCP socket, and hearing how much it has left: a read that leaves room in its buffer
//! may have stopped at an urgent byte.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd as _},
    ptr,
};

/// Of linux/tcp.h: the option, and what comes with each read.
const TCP_INQ: libc::c_int = 36;
const TCP_CM_INQ: libc::c_int = TCP_INQ;

/// What is aligned as the header of a message's ancillary data has to be, with room for one number.
#[repr(C)]
struct Room {
    header: libc::cmsghdr,
    _number: u64,
}

/// Has every read of the socket, and of those that it accepts, tell what is left.
pub fn tell(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads an int through the pointer, which is to one.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_INQ,
            (&raw const on).cast(),
            INT,
        )
    };
    super::succeeded(done)
}

#[expect(clippy::cast_possible_truncation, reason = "it is 4")]
const INT: libc::socklen_t = size_of::<libc::c_int>() as libc::socklen_t;

/// Reads what fits; returns how much, and whether any is left. An end that is still to be read counts.
pub fn read(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
    let mut into = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut room = mem::MaybeUninit::<Room>::uninit();
    // SAFETY: it is made of integers and pointers, all of which may be zero.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut into;
    message.msg_iovlen = 1;
    message.msg_control = room.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Room>();
    // SAFETY: the kernel writes into the buffer and into the room, and no further than their lengths.
    let read = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, 0) };
    let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
    // A socket that doesn't tell has as much as fits, or more.
    let is_left = left(&message).map_or(read == buffer.len(), |left| left > 0);
    Ok((read, is_left))
}

fn left(message: &libc::msghdr) -> Option<libc::c_int> {
    // SAFETY: the kernel has written the message's ancillary data; null where there is none.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        if header.is_null()
            || (*header).cmsg_level != libc::IPPROTO_TCP
            || (*header).cmsg_type != TCP_CM_INQ
        {
            return None;
        }
        Some(ptr::read_unaligned(libc::CMSG_DATA(header).cast()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use socket2::SockRef;

    use super::*;

    #[test]
    fn what_is_behind_an_urgent_byte_is_told() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a listener");
        tell(&listener).expect("TCP_INQ");
        SockRef::from(&listener)
            .set_out_of_band_inline(true)
            .expect("SO_OOBINLINE");
        let mut from = TcpStream::connect(listener.local_addr().expect("bound")).expect("open");
        let (to, _) = listener.accept().expect("accepted");
        from.write_all(b"ab").expect("sent");
        SockRef::from(&from).send_out_of_band(b"!").expect("sent");
        from.write_all(b"cd").expect("sent");
        drop(from);
        // Until the end has come, which is behind all of it.
        SockRef::from(&to)
            .peek(&mut [mem::MaybeUninit::uninit(); 8])
            .expect("data");
        let mut all: Vec<u8> = Vec::new();
        let mut buffer = [0; 16];
        loop {
            let (count, is_left) = read(&to, &mut buffer).expect("read");
            all.extend(&buffer[..count]);
            if count == 0 {
                break;
            }
            assert!(is_left || all == b"ab!cd", "after {all:?}");
        }
        assert_eq!(all, b"ab!cd");
    }
}
