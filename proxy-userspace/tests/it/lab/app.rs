//! Apps inside the test: one that the test itself plays, and one that echoes.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result, bail};
use socket2::{Protocol, SockRef};

use super::netns::{Netns, patient, stream_socket};
use super::poll::PATIENCE;

/// More than any test opens at once.
const BACKLOG: i32 = 4096;

/// A listening app whose connections the test accepts.
pub struct App(TcpListener);

impl App {
    /// `[::]` takes IPv4 too, as it does by default on Linux.
    pub fn listen(netns: &Netns, addr: SocketAddr) -> Result<Self> {
        Self::open(netns, addr, Protocol::TCP, false, None)
    }

    /// By one device alone.
    pub fn by_device(netns: &Netns, addr: SocketAddr, device: &str) -> Result<Self> {
        Self::open(netns, addr, Protocol::TCP, false, Some(device))
    }

    /// With Multipath TCP, as far as the other side has it too; may be one of several listeners.
    pub fn multipath(netns: &Netns, addr: SocketAddr) -> Result<Self> {
        Self::open(netns, addr, Protocol::MPTCP, true, None)
    }

    /// One of several listeners at the same port, by SO_REUSEPORT.
    pub fn share(netns: &Netns, addr: SocketAddr) -> Result<Self> {
        Self::open(netns, addr, Protocol::TCP, true, None)
    }

    fn open(
        netns: &Netns,
        addr: SocketAddr,
        protocol: Protocol,
        shared: bool,
        device: Option<&str>,
    ) -> Result<Self> {
        let listener = netns.enter(|| -> io::Result<TcpListener> {
            let socket = stream_socket(protocol, addr)?;
            socket.set_reuse_port(shared)?;
            socket.bind_device(device.map(str::as_bytes))?;
            socket.bind(&addr.into())?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        });
        let listener = listener.with_context(|| format!("listening on {addr}"))?;
        Ok(Self(listener))
    }

    /// The next connection, and whom it says it is from.
    pub fn accept(&self) -> Result<(TcpStream, SocketAddr)> {
        // Linux takes a listener's receive timeout for accept.
        SockRef::from(&self.0).set_read_timeout(Some(PATIENCE))?;
        let (stream, peer) = self.0.accept().context("the app waits for a connection")?;
        patient(&stream)?;
        Ok((stream, plain(peer)))
    }

    /// Stops listening, as an app does that has died; what it has accepted goes on.
    pub fn stop(&self) -> Result<()> {
        Ok(SockRef::from(&self.0).shutdown(Shutdown::Both)?)
    }

    /// Listens again, at the same address.
    pub fn resume(&self) -> Result<()> {
        Ok(SockRef::from(&self.0).listen(BACKLOG)?)
    }

    /// Has room for one more connection than this that nobody has accepted yet.
    pub fn limit(&self, waiting: i32) -> Result<()> {
        Ok(SockRef::from(&self.0).listen(waiting)?)
    }

    /// Whoever has connected since the last accept, without waiting for anybody.
    pub fn accept_now(&self) -> Result<Option<(TcpStream, SocketAddr)>> {
        self.0.set_nonblocking(true)?;
        let outcome = self.0.accept();
        self.0.set_nonblocking(false)?;
        match outcome {
            Ok((stream, peer)) => {
                patient(&stream)?;
                Ok(Some((stream, plain(peer))))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Fails if anybody has connected since the last accept.
    pub fn saw_nobody(&self) -> Result<()> {
        match self.accept_now()? {
            Some((_, peer)) => bail!("the app was reached by {peer}"),
            None => Ok(()),
        }
    }
}

/// Sends back what it gets, a thread for each connection; ends its half when the other has ended.
pub struct Echo(TcpListener);

impl Echo {
    pub fn start(netns: &Netns, addr: SocketAddr) -> Result<Self> {
        Self::serve(App::listen(netns, addr)?, false)
    }

    /// Says "you are ADDR:PORT" first.
    pub fn greeting(netns: &Netns, addr: SocketAddr) -> Result<Self> {
        Self::greeting_by(App::listen(netns, addr)?)
    }

    /// The same, of a listener of the test's own kind.
    pub fn greeting_by(app: App) -> Result<Self> {
        Self::serve(app, true)
    }

    fn serve(App(listener): App, greets: bool) -> Result<Self> {
        let accepting = listener.try_clone()?;
        thread::spawn(move || {
            while let Ok((stream, peer)) = accepting.accept() {
                thread::spawn(move || echo(stream, greets.then_some(peer)));
            }
        });
        Ok(Self(listener))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Wakes the accepting thread with an error. It can only fail if that has ended already.
        let _ = SockRef::from(&self.0).shutdown(Shutdown::Both);
    }
}

fn echo(mut stream: TcpStream, greet: Option<SocketAddr>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if let Some(peer) = greet {
        stream.write_all(format!("you are {}\n", plain(peer)).as_bytes())?;
    }
    io::copy(&mut &stream, &mut &stream)?;
    stream.shutdown(Shutdown::Write)
}

/// IPv4 as IPv4, also where a dual-stack socket calls it `::ffff:…`.
fn plain(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
