//! A balancer of UDP, written here and not by the product: a socket for each client, and a header in front of
//! what that sends.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};

use super::datagram::{self, Framing};
use super::netns::Netns;
use super::trains::{self, Train};

/// Ends when dropped.
pub struct UdpBalancer {
    ends: Arc<AtomicBool>,
    running: Option<JoinHandle<Result<()>>>,
}

/// What both directions know.
struct Place {
    netns: Netns,
    framing: Framing,
    /// Where clients send to.
    front: UdpSocket,
    front_at: SocketAddr,
    /// Where it sends from, by any port.
    own: SocketAddr,
    service: SocketAddr,
    ends: Arc<AtomicBool>,
}

impl UdpBalancer {
    /// Clients send to `front`, and the service hears from `own`.
    pub fn start(
        netns: &Netns,
        framing: Framing,
        front: SocketAddr,
        [own, service]: [SocketAddr; 2],
    ) -> Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let place = Place {
            netns: netns.clone(),
            framing,
            front: open(netns, front)?,
            front_at: front,
            own,
            service,
            ends: Arc::clone(&ends),
        };
        let running = Some(thread::spawn(move || place.serve()));
        Ok(Self { ends, running })
    }

    /// Fails if anything that came back wasn't as it must be.
    pub fn end(mut self) -> Result<()> {
        self.stop()
    }

    fn stop(&mut self) -> Result<()> {
        self.ends.store(true, Ordering::Relaxed);
        let running = self.running.take();
        running.map_or(Ok(()), |running| {
            running.join().expect("a balancer doesn't panic")
        })
    }
}

impl Drop for UdpBalancer {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("the balancer: {error:#}");
        }
    }
}

fn open(netns: &Netns, at: SocketAddr) -> Result<UdpSocket> {
    let socket = datagram::socket(netns, at)?;
    socket.set_read_timeout(Some(datagram::TICK))?;
    trains::enable(&socket)?;
    Ok(socket)
}

impl Place {
    fn serve(&self) -> Result<()> {
        let mut clients = HashMap::new();
        thread::scope(|scope| {
            let mut back = Vec::new();
            self.each_train(&self.front, |train| {
                let client = train.from;
                let is_new = !clients.contains_key(&client);
                if is_new {
                    let upstream = open(&self.netns, self.own)?;
                    upstream.connect(self.service)?;
                    let same = upstream.try_clone()?;
                    clients.insert(client, upstream);
                    back.push(scope.spawn(move || self.bring_back(&same, client)));
                }
                let datagrams = self.with_headers(&train, is_new);
                trains::send(&clients[&client], None, &datagrams).context("to the service")
            })?;
            let mut ended = back.into_iter().map(|one| one.join().expect("no panic"));
            ended.try_for_each(|one| one)
        })
    }

    fn with_headers(&self, train: &Train, is_new: bool) -> Vec<Vec<u8>> {
        let header = self.framing.header(train.from, self.front_at);
        let datagrams = train.datagrams().enumerate();
        let with_header = |(number, words): (usize, &[u8])| {
            let has_one = self.framing != Framing::V2First || (is_new && number == 0);
            let header = if has_one { &header[..] } else { &[] };
            [header, words].concat()
        };
        datagrams.map(with_header).collect()
    }

    fn bring_back(&self, upstream: &UdpSocket, client: SocketAddr) -> Result<()> {
        let header = self.framing.reply_header(client, self.front_at);
        self.each_train(upstream, |train| {
            ensure!(train.from == self.service, "a reply of {}", train.from);
            let plain = train.datagrams().map(|reply| {
                let words = reply.strip_prefix(&header[..]);
                Ok(words.context("a reply with another header")?.to_vec())
            });
            let plain: Vec<_> = plain.collect::<Result<_>>()?;
            trains::send(&self.front, Some(client), &plain).context("to the client")
        })
    }

    fn each_train(
        &self,
        socket: &UdpSocket,
        mut take: impl FnMut(Train) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = vec![0; 1 << 16];
        while !self.ends.load(Ordering::Relaxed) {
            match trains::receive(socket, &mut buffer) {
                Ok(train) => take(train)?,
                Err(error) if datagram::is_timeout(&error) => {}
                Err(error) => return Err(error).context("the balancer receives"),
            }
        }
        Ok(())
    }
}
