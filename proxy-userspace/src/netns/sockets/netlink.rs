//! Questions to sock_diag, one at a time. The kernel has the answer ready when the question is sent,
//! so that nothing here waits.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use netlink_packet_sock_diag::{
    SOCK_DIAG_BY_FAMILY, SockDiagMessage,
    inet::{InetRequest, InetResponse},
};
use rtnetlink::packet_core::{
    DefaultNla, Emitable as _, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use rustix::{
    buffer::spare_capacity,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with,
    },
};

/// The longest that the kernel puts into one message of a list.
const MESSAGE: usize = 32 * 1024;
/// Messages start at multiples of it.
const ALIGNMENT: usize = 4;
/// INET_DIAG_REQ_BYTECODE of linux/inet_diag.h.
const BYTECODE: u16 = 1;

pub struct Netlink {
    socket: OwnedFd,
    message: Vec<u8>,
    /// Of the question, and of its answers: what is left of an earlier one doesn't count.
    number: u32,
}

/// A question for a list, with the filter that the crate's own request doesn't have.
pub struct Dump {
    pub request: InetRequest,
    pub filter: Vec<u8>,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
        let protocol = Some(netlink::SOCK_DIAG);
        Ok(Self::by(socket_with(
            family,
            kind,
            SocketFlags::CLOEXEC,
            protocol,
        )?))
    }

    /// By a socket for such questions, which nobody else asks any.
    pub fn by(socket: OwnedFd) -> Self {
        Self {
            socket,
            message: Vec::with_capacity(MESSAGE),
            number: 0,
        }
    }

    /// Has one thing done.
    pub fn command<C>(&mut self, command: C) -> io::Result<()>
    where
        C: NetlinkSerializable + Into<NetlinkPayload<C>>,
    {
        self.send(command, NLM_F_ACK)?;
        self.answers(|_| {})
    }

    /// For one socket.
    pub fn ask(&mut self, one: InetRequest, found: impl FnMut(InetResponse)) -> io::Result<()> {
        self.send(SockDiagMessage::InetRequest(one), NLM_F_ACK)?;
        self.answers(found)
    }

    pub fn dump(&mut self, dump: Dump, found: impl FnMut(InetResponse)) -> io::Result<()> {
        self.send(dump, NLM_F_DUMP)?;
        self.answers(found)
    }

    fn send<C>(&mut self, content: C, flags: u16) -> io::Result<()>
    where
        C: NetlinkSerializable + Into<NetlinkPayload<C>>,
    {
        self.number = self.number.wrapping_add(1);
        let mut request = NetlinkMessage::from(content);
        request.header.sequence_number = self.number;
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        send(&self.socket, &bytes, SendFlags::empty())?;
        Ok(())
    }

    fn answers(&mut self, mut found: impl FnMut(InetResponse)) -> io::Result<()> {
        loop {
            self.message.clear();
            recv(
                &self.socket,
                spare_capacity(&mut self.message),
                RecvFlags::empty(),
            )?;
            let mut rest = &*self.message;
            while !rest.is_empty() {
                let (answer, behind) = first(rest)?;
                rest = behind;
                if answer.header.sequence_number != self.number {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                        found(*socket);
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Overrun(_) => {
                        return Err(io::Error::other("the kernel lost a part of its answer"));
                    }
                    _ => {}
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The first of several messages, and what is behind it.
fn first(bytes: &[u8]) -> io::Result<(NetlinkMessage<SockDiagMessage>, &[u8])> {
    let length = NetlinkBuffer::new_checked(bytes)
        .map_err(io::Error::other)?
        .length();
    let length = usize::try_from(length).unwrap_or(bytes.len());
    let message = NetlinkMessage::deserialize(bytes).map_err(io::Error::other)?;
    let next = length.next_multiple_of(ALIGNMENT);
    Ok((message, bytes.get(next..).unwrap_or_default()))
}

impl Dump {
    fn filter(&self) -> DefaultNla {
        DefaultNla::new(BYTECODE, self.filter.clone())
    }
}

impl NetlinkSerializable for Dump {
    fn message_type(&self) -> u16 {
        SOCK_DIAG_BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        self.request.buffer_len() + self.filter().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (request, filter) = buffer.split_at_mut(self.request.buffer_len());
        self.request.emit(request);
        self.filter().emit(filter);
    }
}

impl From<Dump> for NetlinkPayload<Dump> {
    fn from(dump: Dump) -> Self {
        Self::InnerMessage(dump)
    }
}
