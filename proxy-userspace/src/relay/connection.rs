//! One connection, from its header to its end.

use std::net::SocketAddr;

use tokio::{net::TcpStream, time::timeout};

use super::{
    Balancer, Client, End, Opened, Route, Service, Shared,
    addr::canonical,
    client, pump,
    read_header::{self, Head},
    upstream,
};

pub async fn run(
    mut downstream: TcpStream,
    balancer: Balancer,
    service: &Service,
    shared: &Shared,
) -> End {
    match open(&mut downstream, balancer, service, shared).await {
        Ok((upstream, payload)) => pump::pump(downstream, upstream, payload).await,
        Err(end) => end,
    }
}

/// Nothing goes to the application before the whole header is there and its client is believed.
async fn open(
    downstream: &mut TcpStream,
    balancer: Balancer,
    service: &Service,
    shared: &Shared,
) -> Result<(TcpStream, Vec<u8>), End> {
    let Head { source, payload } = read_header::read(downstream, service).await?;
    let (client, spoofed) = believe(source, balancer, shared)?;
    let route = service.route(&client).ok_or(End::NoTarget(client))?;
    let connecting = async {
        if spoofed {
            upstream::spoofed(client, &route, service, shared).await
        } else {
            upstream::plain(&route, shared).await
        }
    };
    let upstream = timeout(service.connect_timeout, connecting)
        .await
        .map_err(|_| End::ConnectTimeout {
            target: route.target,
        })?
        .map_err(|error| connect_failed(route, client, error))?;
    let opened = Opened {
        balancer,
        client,
        target: route.target,
        spoofed,
    };
    shared.report.opened(service, &opened);
    Ok((upstream, payload))
}

fn connect_failed(route: Route, client: Client, error: std::io::Error) -> End {
    End::Connect {
        target: route.target,
        client,
        error,
    }
}

/// The client, and whether its address is spoofed. A balancer that speaks for itself from this
/// very host needs no spoofing, and it couldn't be done either.
fn believe(
    source: Option<SocketAddr>,
    balancer: Balancer,
    shared: &Shared,
) -> Result<(Client, bool), End> {
    let client = Client(source.map_or(balancer.0, canonical));
    match client::check(client.0.ip(), &*shared.own) {
        Ok(()) => Ok((client, true)),
        Err(_) if source.is_none() => Ok((client, false)),
        Err(martian) => Err(End::Client { client, martian }),
    }
}
