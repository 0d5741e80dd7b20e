//! From the application to a balancer.

use std::{io, rc::Rc};

use socket2::Socket;
use tokio::io::unix::AsyncFd;

use super::{At, Framing, LARGEST, socket};
use crate::header::{Endpoints, spp};

/// Until the future is dropped.
pub async fn serve(at: Rc<At>, caught: AsyncFd<Socket>) {
    let mut buffer = vec![0; LARGEST];
    loop {
        let received = socket::receive(&caught, None, &mut buffer).await;
        let sent = received.and_then(|received| send(&at, &received, &buffer[..received.len]));
        if let Err(error) = sent {
            tracing::debug!(%error, "a reply is lost");
        }
    }
}

fn send(at: &At, received: &socket::Received, payload: &[u8]) -> io::Result<()> {
    let (aim, client) = (received.from, received.to);
    let Some(flow) = at.flows.reply(aim, client, payload.len()) else {
        tracing::debug!(%aim, %client, "a reply that is no flow's");
        return Ok(());
    };
    let from = flow.received_at;
    let receivers = at.receivers.borrow();
    let mut receivers = receivers.iter();
    // The most exact address first, as the kernel's lookup has it.
    let hears = |listen: std::net::SocketAddr| {
        let is_any = listen.ip().is_unspecified() && (listen.is_ipv6() || from.is_ipv4());
        listen.port() == from.port() && (listen.ip() == from.ip() || is_any)
    };
    let Some(receiver) = receivers.find(|receiver| hears(receiver.at())) else {
        return Ok(());
    };
    let (_, framing) = *receiver.service.borrow();
    let header = (framing == Framing::Spp).then(|| {
        spp::write(&Endpoints {
            source: client,
            destination: flow.stated,
        })
    });
    let header = header.as_ref().map_or(&[][..], |header| header);
    let (parts, class) = ([header, payload], received.class);
    receiver
        .listener
        .get_ref()
        .send(&parts, from.ip(), flow.balancer.0, class)
}
