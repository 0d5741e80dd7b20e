//! What kind of listener hears an address, as the kernel itself finds it: an exact address before a
//! wildcard, whichever family its socket is of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetResponse, StateFlags, nlas::Nla};
use rtnetlink::packet_core::{Nla as _, NlasIterator};

use super::{Local, TcpSockets};

// Of linux/inet_diag.h.
const ULP_INFO: u16 = 19;
const ULP_NAME: u16 = 1;
/// Beneath a socket of Multipath TCP are those of TCP that have this protocol above them.
const MULTIPATH: &[u8] = b"mptcp\0";

/// A device by which alone an application hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entrance {
    pub name: String,
    pub index: u32,
}

impl TcpSockets {
    /// Whether the listener that hears a client of `local` has Multipath TCP; none where nobody listens.
    /// Older kernels tell only CAP_NET_ADMIN of it: without, none seems to have it.
    pub fn has_multipath_listener(&mut self, local: SocketAddr) -> Result<Option<bool>> {
        let mut has = None;
        // The protocol above is told with the rest of this.
        let extensions = ExtensionFlags::INFO;
        self.find(local, nobody(local), 0, extensions, |found| {
            has = Some(is_multipath(&found));
        })?;
        Ok(has)
    }

    /// The device that whoever hears `local` is bound to (SO_BINDTODEVICE), as its index; 0 where somebody
    /// hears it by every device, none where nobody listens. Of several, `before` stays, or else who has the
    /// exact address comes first.
    pub fn device_of_listener(&mut self, local: SocketAddr, before: u32) -> Result<Option<u32>> {
        if self.is_heard(local, 0)? {
            return Ok(Some(0));
        }
        let mut devices = Vec::new();
        let ports = [Local::Port(local.port())];
        self.dump(StateFlags::LISTEN, &ports, &mut |socket| {
            let at = socket.local.ip();
            if at == local.ip() || at.is_unspecified() {
                let device = socket.id.interface_id;
                devices.push((device != before, at.is_unspecified(), device));
            }
        })?;
        devices.sort_unstable();
        for (_, _, device) in devices {
            if device != 0 && self.is_heard(local, device)? {
                return Ok(Some(device));
            }
        }
        Ok(None)
    }

    /// Whether the kernel finds a listener for what comes by a device; 0: by any.
    fn is_heard(&mut self, local: SocketAddr, device: u32) -> Result<bool> {
        let mut is_heard = false;
        let extensions = ExtensionFlags::empty();
        self.find(local, nobody(local), device, extensions, |_| {
            is_heard = true
        })?;
        Ok(is_heard)
    }
}

/// Who is asked for with this is a listener.
const fn nobody(local: SocketAddr) -> SocketAddr {
    let any = match local {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(any, 0)
}

fn is_multipath(socket: &InetResponse) -> bool {
    socket.nlas.iter().any(|nla| match nla {
        Nla::Other(ulp) if ulp.kind() == ULP_INFO => {
            let mut info = vec![0; ulp.value_len()];
            ulp.emit_value(&mut info);
            let mut parts = NlasIterator::new(&*info).flatten();
            parts.any(|part| part.kind() == ULP_NAME && part.value() == MULTIPATH)
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use socket2::{Domain, Protocol, Socket, Type};

    use super::*;

    fn listener(protocol: Protocol, at: SocketAddr) -> Socket {
        let domain = Domain::for_address(at);
        let socket = Socket::new(domain, Type::STREAM, Some(protocol)).expect("a socket");
        // Beside another one at the same port.
        socket.set_reuse_port(true).expect("an option");
        socket.bind(&at.into()).expect("a port");
        socket.listen(1).expect("a listener");
        socket
    }

    fn port(socket: &Socket) -> u16 {
        let at = socket.local_addr().expect("an address").as_socket();
        at.expect("of IP").port()
    }

    #[track_caller]
    fn hears(to: &str, port: u16, multipath: Option<bool>) {
        let to = SocketAddr::new(to.parse().expect("an IP"), port);
        let mut sockets = TcpSockets::open().expect("sock_diag");
        let has = sockets.has_multipath_listener(to).expect("an answer");
        assert_eq!(has, multipath, "{to}");
    }

    #[test]
    fn tells_the_listener_that_hears() {
        for (wildcard, to, exact) in [
            ("0.0.0.0:0", "127.0.80.6", "127.0.80.7"),
            ("[::]:0", "127.0.80.6", "127.0.80.7"),
            ("[::]:0", "::1", "127.0.80.7"),
            ("[::]:0", "127.0.80.6", "::1"),
        ] {
            for (protocol, multipath) in [(Protocol::MPTCP, true), (Protocol::TCP, false)] {
                let any = listener(protocol, wildcard.parse().expect("an address"));
                let port = port(&any);
                hears(to, port, Some(multipath));
                let other = match multipath {
                    true => Protocol::TCP,
                    false => Protocol::MPTCP,
                };
                let at = SocketAddr::new(exact.parse().expect("an IP"), port);
                let more_exact = listener(other, at);
                hears(exact, port, Some(!multipath));
                hears(to, port, Some(multipath));
                drop(any);
                hears(to, port, None);
                drop(more_exact);
                hears(exact, port, None);
            }
        }
    }
}
