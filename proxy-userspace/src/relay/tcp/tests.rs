//! Who ends connections, and which: over loopback, from this host's own address.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::{Mutex, PoisonError},
};

use anyhow::Result;
use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{JoinHandle, LocalSet, spawn_local},
    time::timeout,
};

use super::*;
use crate::{drain::Drain, relay::*, sys};

/// The balancer speaks for itself, so that nobody has to be spoofed.
const HEADER: &[u8] = b"PROXY UNKNOWN\r\n";
const PATIENCE: Duration = Duration::from_secs(10);
const LOCAL: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

struct Recorder {
    ended: Mutex<Vec<&'static str>>,
    drain: Drain,
    /// As somebody else may at any moment.
    stops_at_open: bool,
}

impl Report for Recorder {
    fn accepted(&self, _: &Service, _: Balancer) {}

    fn opened(&self, _: &Connection) {
        if self.stops_at_open {
            self.drain.stop_now();
        }
    }

    fn port_busy(&self, _: &Service, _: Client) {}

    fn ended(&self, _: &Service, _: Balancer, end: &End) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.push(end.name());
    }

    fn accept_failed(&self, _: &Service, _: &io::Error) {}
}

struct NoneOwn;

impl OwnAddresses for NoneOwn {
    fn find(&self, _: &IpAddr) -> Option<Own> {
        None
    }
}

impl Admission for NoneOwn {
    fn allows(&self, _: &Service, _: Balancer) -> bool {
        true
    }

    fn denies(&self, _: &Service, _: Client) -> bool {
        false
    }
}

impl Places for NoneOwn {
    fn claim(&self, _: &PlaceOf) -> Result<Counted, Exceeded> {
        Ok(Counted::default())
    }

    fn lacks(&self, _: &PlaceOf, _: Counted) -> bool {
        false
    }

    fn count(&self, _: &PlaceOf, counted: Counted) -> Counted {
        counted
    }

    fn release(&self, _: &PlaceOf, _: Counted) {}

    fn look(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

struct Site {
    app: TcpListener,
    at: SocketAddr,
    connections: Connections,
    report: Arc<Recorder>,
    serving: JoinHandle<()>,
}

/// The balancer's end, and the application's.
type Ends = [TcpStream; 2];

impl Site {
    async fn start(stops_at_open: bool) -> Result<Self> {
        let app = TcpListener::bind(LOCAL).await?;
        let listener: std::net::TcpListener = sys::listener(LOCAL.into(), false, false)?.into();
        let at = listener.local_addr()?;
        let (drain, draining) = Drain::new();
        let report = Arc::new(Recorder {
            ended: Mutex::default(),
            drain,
            stops_at_open,
        });
        let connections = Connections::default();
        let (host_sockets, mut requests) = HostSockets::new();
        let shared = Arc::new(Shared {
            report: report.clone(),
            own: Arc::new(NoneOwn),
            admission: Arc::new(NoneOwn),
            places: Arc::new(NoneOwn),
            host_sockets,
            connections: connections.clone(),
            slots: Arc::new(Semaphore::new(8)),
            turn: tokio::sync::Mutex::default(),
            neighbours: None,
        });
        spawn_local(async move {
            while let Some(request) = requests.recv().await {
                request.answer();
            }
        });
        let mut listeners = Listeners::new(shared, draining);
        let listening = Listening {
            service: Arc::new(service(app.local_addr()?)),
            at,
            socket: listener,
        };
        listeners.listen(listening)?;
        let (_, changes) = mpsc::unbounded_channel();
        Ok(Self {
            app,
            at,
            connections,
            report,
            serving: spawn_local(listeners.serve(changes)),
        })
    }

    async fn open(&self) -> Result<Ends> {
        let mut balancer = TcpStream::connect(self.at).await?;
        balancer.write_all(HEADER).await?;
        let (app, _) = self.app.accept().await?;
        let mut ends = [balancer, app];
        // By then it is listed.
        round_trip(&mut ends).await?;
        Ok(ends)
    }

    /// How they ended, once all have.
    async fn ended(self) -> Result<Vec<&'static str>> {
        self.serving.await?;
        let ended = self.report.ended.lock();
        Ok(ended.unwrap_or_else(PoisonError::into_inner).clone())
    }
}

fn service(app: SocketAddr) -> Service {
    let application = Application::new(Target(app), app, true);
    Service {
        id: 0,
        name: "default".into(),
        policy: Policy::default(),
        clients: ClientPolicy::default(),
        header_timeout: Duration::from_secs(600),
        connect_timeout: Duration::from_secs(600),
        applications: [Some(Arc::new(application)), None],
    }
}

async fn round_trip([balancer, app]: &mut Ends) -> Result<()> {
    balancer.write_all(b"?").await?;
    assert_eq!(app.read_u8().await?, b'?');
    app.write_all(b"!").await?;
    assert_eq!(balancer.read_u8().await?, b'!');
    Ok(())
}

async fn expect_reset(stream: &mut TcpStream) {
    let read = stream.read_u8().await;
    let error = read.expect_err("an end").kind();
    assert_eq!(error, io::ErrorKind::ConnectionReset);
}

fn run(test: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // One that isn't ended would be waited for.
    LocalSet::new().block_on(&runtime, async { timeout(PATIENCE, test).await? })
}

#[test]
fn only_those_picked_are_reset_and_on_both_sides() -> Result<()> {
    run(async {
        let site = Site::start(false).await?;
        let (mut picked, mut other) = (site.open().await?, site.open().await?);
        let balancer = picked[0].local_addr()?;
        let is_picked = |connection: &Connection| connection.balancer.0 == balancer;
        assert_eq!(site.connections.end(is_picked), 1);
        for end in &mut picked {
            expect_reset(end).await;
        }
        round_trip(&mut other).await?;
        assert_eq!(site.connections.iter().count(), 1);
        drop(other);
        site.report.drain.start();
        assert_eq!(site.ended().await?[0], "stopped");
        Ok(())
    })
}

#[test]
fn the_drain_by_itself_ends_only_what_has_no_client() -> Result<()> {
    run(async {
        let site = Site::start(false).await?;
        let mut open = site.open().await?;
        let mut opening = TcpStream::connect(site.at).await?;
        site.report.drain.stop_now();
        expect_reset(&mut opening).await;
        round_trip(&mut open).await?;
        assert_eq!(site.connections.end(|_| true), 1);
        for end in &mut open {
            expect_reset(end).await;
        }
        assert_eq!(site.ended().await?, ["stopped", "stopped"]);
        Ok(())
    })
}

/// Who has ended all that were listed a moment ago doesn't come again.
#[test]
fn what_opens_while_all_are_ended_is_ended() -> Result<()> {
    run(async {
        let site = Site::start(true).await?;
        let mut balancer = TcpStream::connect(site.at).await?;
        balancer.write_all(HEADER).await?;
        expect_reset(&mut balancer).await;
        assert_eq!(site.ended().await?, ["stopped"]);
        Ok(())
    })
}
