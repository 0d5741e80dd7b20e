//! An app with a thread for each connection.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result};
use socket2::SockRef;

use super::netns::{Netns, tcp_socket};

/// How one connection is served. The address is the peer's, IPv4 as IPv4.
pub type Serve = fn(TcpStream, SocketAddr) -> Result<()>;

/// Ends with its last connection once dropped.
pub struct Service(TcpListener);

impl Service {
    pub fn start(netns: &Netns, addr: SocketAddr, serve: Serve) -> Result<Self> {
        let listener = netns.enter(|| -> io::Result<TcpListener> {
            let socket = tcp_socket(addr)?;
            socket.bind(&addr.into())?;
            socket.listen(128)?;
            Ok(socket.into())
        });
        let listener = listener.with_context(|| format!("listening on {addr}"))?;
        let accepting = listener.try_clone()?;
        thread::spawn(move || {
            while let Ok((stream, peer)) = accepting.accept() {
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                // It is the client that tells the test what went wrong.
                thread::spawn(move || serve(stream, peer));
            }
        });
        Ok(Self(listener))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Wakes the accepting thread with an error. It can only fail if that has ended already.
        let _ = SockRef::from(&self.0).shutdown(Shutdown::Both);
    }
}
