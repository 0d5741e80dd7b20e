//! What the programs know of datagrams, for the relay.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
};

use futures_util::future::BoxFuture;
use proxy_common::datagram;
use tokio::runtime::Handle;

use super::{datagrams::receiver, routes::Routes};
use crate::{
    config::Config,
    kernel::{self, Firsts, FlowEnds, Said},
    netns::has_route_by,
    relay::{
        Balancer, Client, Service,
        udp::{Flow, Flows, Noted, Speaks},
    },
};

/// What the programs know of each service, by its id.
#[derive(Default)]
pub struct Receivers(RwLock<BTreeMap<u32, datagram::Receiver>>);

impl Receivers {
    pub fn set(&self, config: &Config, routes: &Routes) {
        let services = config.services.iter();
        let each = services.filter_map(|it| Some((it.id, receiver(config, it, routes)?)));
        let all = each.collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = all;
    }

    fn of(&self, service: u32) -> Option<datagram::Receiver> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&service).copied()
    }
}

/// All that they know.
pub struct Known {
    pub maps: Arc<kernel::Datagrams>,
    pub firsts: Arc<Firsts>,
    pub receivers: Arc<Receivers>,
    /// Its threads are on the host.
    pub host: Handle,
}

impl Known {
    fn of(&self, service: &Service) -> io::Result<datagram::Receiver> {
        let found = self.receivers.of(service.id);
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Flows for Known {
    fn leads(&self, balancer: IpAddr, device: u32) -> BoxFuture<'_, bool> {
        let asked = self.host.spawn(has_route_by(balancer, device));
        Box::pin(async move {
            let leads = matches!(asked.await, Ok(Ok(true)));
            let noted = self.maps.note_reverse_path(balancer, device, leads);
            if let Err(error) = noted {
                tracing::debug!(%balancer, device, "{error:#}");
            }
            leads
        })
    }

    fn note(&self, service: &Service, flow: &Flow, bytes: usize) -> io::Result<Noted> {
        let receiver = self.of(service)?;
        let ends = FlowEnds {
            balancer: flow.balancer.0,
            received_at: flow.received_at,
            client: flow.client.0,
            aim: flow.aim,
            stated: flow.stated,
            is_local: flow.is_local,
        };
        let noted = self.maps.note(&ends, &receiver, bytes as u64);
        Ok(match noted.map_err(io::Error::other)? {
            kernel::Noted::Yes => Noted::Yes,
            kernel::Noted::Taken => Noted::Taken,
            kernel::Noted::Full => Noted::Full,
            kernel::Noted::Drained => Noted::Drained,
        })
    }

    fn reply(&self, aim: SocketAddr, client: SocketAddr, bytes: usize) -> Option<Flow> {
        let known = self.maps.reply(aim, client, bytes as u64);
        let known = known
            .inspect_err(|error| tracing::debug!(%client, "{error:#}"))
            .ok()??;
        let flow = known.ends;
        if known.flags & datagram::Receiver::V2_FIRST != 0 {
            let socket = (flow.balancer, flow.received_at);
            self.firsts.answered(socket, flow.client, known.close_after);
        }
        Some(Flow {
            balancer: Balancer(flow.balancer),
            received_at: flow.received_at,
            client: Client(flow.client),
            aim: flow.aim,
            stated: flow.stated,
            is_local: flow.is_local,
        })
    }

    fn first(
        &self,
        service: &Service,
        balancer: Balancer,
        received_at: SocketAddr,
    ) -> io::Result<Speaks> {
        let close_after = self.of(service)?.close_after();
        let found = self.firsts.find((balancer.0, received_at), close_after);
        Ok(match found {
            Ok(Some(Said::For(client))) => Speaks::For(Client(client)),
            Ok(Some(Said::InPieces(client))) => Speaks::InPieces(Client(client)),
            Ok(None) => Speaks::Nobody,
            Err(kernel::Forgotten) => Speaks::Forgotten,
        })
    }

    fn leave_undecided(
        &self,
        service: &Service,
        balancer: Balancer,
        received_at: SocketAddr,
    ) -> io::Result<()> {
        let close_after = self.of(service)?.close_after();
        let socket = (balancer.0, received_at);
        let left = self.firsts.leave_undecided(socket, close_after);
        left.map_err(io::Error::other)
    }

    fn note_first(
        &self,
        service: &Service,
        balancer: Balancer,
        received_at: SocketAddr,
        client: Client,
    ) -> io::Result<()> {
        let close_after = self.of(service)?.close_after();
        let socket = (balancer.0, received_at);
        let noted = self.firsts.note(socket, client.0, close_after);
        noted.map_err(io::Error::other)
    }
}
