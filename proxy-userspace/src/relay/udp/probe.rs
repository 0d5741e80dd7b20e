//! One datagram to an application, from a client that isn't there.

use std::{io, net::SocketAddr, time::Duration};

use futures_util::future::select_all;
use socket2::Socket;
use tokio::{io::unix::AsyncFd, time::timeout};

use super::{Catchers, Forwarder, packet::Injector, socket};

/// In the spoof namespace.
pub struct Probe {
    injector: Injector,
    caught: Vec<AsyncFd<Socket>>,
}

impl Probe {
    /// The programs have to know of `catchers`.
    pub fn new(catchers: Catchers, forwarder: Forwarder) -> io::Result<Self> {
        Ok(Self {
            injector: Injector::new(forwarder)?,
            caught: catchers.into_async()?,
        })
    }

    /// Without a byte: hardly any application does anything for that.
    pub fn send(&self, client: SocketAddr, aim: SocketAddr, is_beyond: bool) -> io::Result<()> {
        self.injector.send(client, aim, &[], 0, is_beyond)
    }

    /// Whether `aim` answers the client within this time.
    pub async fn is_answered(&self, client: SocketAddr, aim: SocketAddr, within: Duration) -> bool {
        let each = self
            .caught
            .iter()
            .map(|it| Box::pin(answers(it, client, aim)));
        timeout(within, select_all(each)).await.is_ok()
    }
}

async fn answers(caught: &AsyncFd<Socket>, client: SocketAddr, aim: SocketAddr) {
    let mut buffer = vec![0; super::LARGEST];
    loop {
        if let Ok(received) = socket::receive(caught, None, &mut buffer).await
            && received.from == aim
            && received.to == client
        {
            return;
        }
    }
}
