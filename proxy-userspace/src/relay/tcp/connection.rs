//! One connection, from its header to its end.

use std::{sync::Arc, time::Instant};

use tokio::{net::TcpStream, time::timeout};

use super::{
    accept::At,
    direction::Direction,
    pump,
    read_header::{self, Head},
    upstream::{self, Spoofed},
};
use crate::relay::{
    Balancer, Client, Connection, End, Place, Service, Shared, addr::canonical, open::Moved,
    policy::Way,
};

pub async fn run(downstream: &TcpStream, balancer: &Balancer, at: &At) -> End {
    // On the heap, so that an open connection doesn't hold the room that opening takes.
    let opening = Box::pin(open(downstream, *balancer, at));
    let Opened {
        upstream,
        payload,
        connection,
    } = match opening.await {
        Ok(opened) => opened,
        Err(end) => {
            at.opening.leave();
            return end;
        }
    };
    let listed = at.list.enter(connection);
    at.shared.report.opened(&listed.connection);
    if let Some(place) = &listed.connection.place {
        // The limits may have become others just before it was listed.
        place.count();
    }
    let client = listed.connection.client;
    if !balancer.is(client) && at.shared.admission.denies(&at.service, client) {
        // Whoever ends those that are listed may have done so just before.
        return End::Denied(client);
    }
    if at.draining.is_stopped() {
        // Whoever ends all that are listed may have done so just before.
        return End::Stopped;
    }
    let both = Direction::both(&listed.connection, downstream, &upstream);
    pump::pump(&both, payload).await
}

struct Opened {
    upstream: TcpStream,
    /// What came behind the header.
    payload: Vec<u8>,
    connection: Arc<Connection>,
}

/// Nothing goes to the application before the whole header is there and its client is believed.
async fn open(downstream: &TcpStream, balancer: Balancer, at: &At) -> Result<Opened, End> {
    let At {
        service, shared, ..
    } = at;
    let Head {
        source,
        header,
        payload,
    } = read_header::read(downstream, service).await?;
    let claimed = source.map(|source| Client(canonical(source)));
    if let Some(client) = claimed.filter(|client| shared.admission.denies(service, *client)) {
        return Err(End::Denied(client));
    }
    let way = Way::find(claimed, balancer, service, &*shared.own)?;
    let place = match claimed {
        Some(client) => Some(place(client, balancer, service, shared).await?),
        None => None,
    };
    let upstream = connect(&way, !payload.is_empty(), service, shared).await?;
    let connection = Connection {
        service: service.clone(),
        balancer,
        client: way.client,
        target: way.route.target,
        spoofed: way.spoofed,
        since: Instant::now(),
        header,
        moved: Moved::default(),
        place,
        task: at.opening.leave().ok_or(End::Stopped)?,
    };
    Ok(Opened {
        upstream,
        payload,
        connection: Arc::new(connection),
    })
}

async fn place(
    client: Client,
    balancer: Balancer,
    service: &Service,
    shared: &Shared,
) -> Result<Place, End> {
    let claimed = Place::claim(&shared.places, service.id, balancer, client).await;
    claimed.map_err(|exceeded| End::Limit { client, exceeded })
}

async fn connect(
    way: &Way,
    speaks: bool,
    service: &Service,
    shared: &Shared,
) -> Result<TcpStream, End> {
    let (route, target) = (&way.route, way.route.target);
    let connecting = async {
        if way.spoofed {
            let spoofed = Spoofed { route, speaks };
            spoofed.connect(way.client, service, shared).await
        } else {
            // On the heap, as it is rare.
            Box::pin(upstream::plain(route, way.own, shared)).await
        }
    };
    timeout(service.connect_timeout, connecting)
        .await
        .map_err(|_| End::ConnectTimeout { target })?
        .map_err(|error| End::Connect {
            target,
            client: way.client,
            error,
        })
}
