//! A server and a client of QUIC, which send each other bytes that both can compute.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::pem::PemObject;
use quinn::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, MtuDiscoveryConfig, RecvStream, SendStream,
    ServerConfig, TokioRuntime, TransportConfig,
};
use tokio::runtime::{Builder, Runtime};

use crate::lab::datagram;
use crate::lab::netns::Netns;
use crate::lab::payload::Payload;
use crate::lab::pki::Pki;
use crate::lab::poll::PATIENCE;
use crate::lab::trains;

/// How long packets get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mtu {
    /// 1,200 bytes, which every path of QUIC's takes.
    Least,
    /// What probes get through.
    Discovered,
}

/// What one end knows of a connection.
#[derive(Debug)]
pub struct Seen {
    pub peer: SocketAddr,
    pub datagrams: u64,
    /// By which it has sent them.
    pub calls: u64,
    /// What it takes the path's MTU for, less IP's headers.
    pub mtu: u16,
}

/// Serves one client. Ends when dropped.
pub struct Server {
    endpoint: Endpoint,
    running: Option<JoinHandle<Result<Seen>>>,
}

impl Server {
    pub fn start(
        pki: &Pki,
        netns: &Netns,
        at: SocketAddr,
        mtu: Mtu,
        length: usize,
    ) -> Result<Self> {
        let certificate = CertificateDer::from_pem_file(pki.path("front.crt"))?;
        let key = PrivateKeyDer::from_pem_file(pki.path("front.key"))?;
        let mut config = ServerConfig::with_single_cert(vec![certificate], key)?;
        config.transport_config(Arc::new(transport(mtu)?));
        let runtime = runtime()?;
        let endpoint = endpoint(&runtime, netns, at, Some(config))?;
        let same = endpoint.clone();
        let serve = move || runtime.block_on(serve(&same, length));
        let running = Some(thread::spawn(serve));
        Ok(Self { endpoint, running })
    }

    /// Once the client has closed its connection.
    pub fn end(&mut self) -> Result<Seen> {
        let running = self.running.take().context("it ends once")?;
        let ended = running.join().expect("a server doesn't panic");
        ended.context("the server")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.endpoint.close(0_u8.into(), b"");
        if let Some(Ok(Err(error))) = self.running.take().map(JoinHandle::join) {
            eprintln!("the server: {error:#}");
        }
    }
}

async fn serve(endpoint: &Endpoint, length: usize) -> Result<Seen> {
    let incoming = endpoint.accept().await.context("nobody came")?;
    let connection = incoming.await?;
    let (send, receive) = connection.accept_bi().await?;
    tokio::try_join!(told(send, DOWN, length), heard(receive, UP, length))?;
    // All has arrived when the client says so by closing.
    connection.closed().await;
    Ok(seen(&connection))
}

/// Exchanges so many bytes each way with the server at `front`, from exactly `client`.
pub fn ask(
    pki: &Pki,
    netns: &Netns,
    [client, front]: [SocketAddr; 2],
    mtu: Mtu,
    length: usize,
) -> Result<Seen> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.path("ca.crt"))?)?;
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots))?;
    config.transport_config(Arc::new(transport(mtu)?));
    let runtime = runtime()?;
    let endpoint = endpoint(&runtime, netns, client, None)?;
    let exchange = async {
        let connection = endpoint.connect_with(config, front, Pki::FRONT)?.await?;
        let (send, receive) = connection.open_bi().await?;
        let (send, ()) = tokio::try_join!(told(send, UP, length), heard(receive, DOWN, length))?;
        // Until the server has all; closing would throw away what is on its way.
        send.stopped().await?;
        connection.close(0_u8.into(), b"");
        endpoint.wait_idle().await;
        Ok::<_, anyhow::Error>(seen(&connection))
    };
    runtime.block_on(exchange).context("the client")
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

fn endpoint(
    runtime: &Runtime,
    netns: &Netns,
    at: SocketAddr,
    server: Option<ServerConfig>,
) -> Result<Endpoint> {
    let socket = datagram::socket(netns, at)?;
    trains::make_room(&socket)?;
    let _guard = runtime.enter();
    let config = EndpointConfig::default();
    Ok(Endpoint::new(
        config,
        server,
        socket,
        Arc::new(TokioRuntime),
    )?)
}

fn transport(mtu: Mtu) -> Result<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(PATIENCE.try_into()?));
    let discovery = (mtu == Mtu::Discovered).then(MtuDiscoveryConfig::default);
    transport.mtu_discovery_config(discovery);
    Ok(transport)
}

fn seen(connection: &Connection) -> Seen {
    let stats = connection.stats();
    Seen {
        peer: connection.remote_address(),
        datagrams: stats.udp_tx.datagrams,
        calls: stats.udp_tx.ios,
        mtu: stats.path.current_mtu,
    }
}

/// Of the payloads.
const UP: u64 = 81;
const DOWN: u64 = 82;

async fn told(mut stream: SendStream, seed: u64, length: usize) -> Result<SendStream> {
    const PIECE: usize = 1 << 16;
    let payload = Payload::new(seed);
    let mut at = 0;
    while at < length {
        let piece = payload.piece(at, PIECE.min(length - at));
        stream.write_all(piece).await?;
        at += piece.len();
    }
    stream.finish()?;
    Ok(stream)
}

async fn heard(mut stream: RecvStream, seed: u64, length: usize) -> Result<()> {
    let payload = Payload::new(seed);
    let mut at = 0;
    while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
        payload.check(at, &chunk.bytes)?;
        at += chunk.bytes.len();
    }
    ensure!(at == length, "the stream ended after {at} bytes");
    Ok(())
}
