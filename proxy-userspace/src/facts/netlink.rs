//! Netlink beyond rtnetlink: being told of changes, IPsec policies, whether nftables has any table.

use std::{io, time::Duration};

use anyhow::{Context, Result};
use futures_util::StreamExt as _;
use netlink_packet_xfrm::{XfrmMessage, constants::XFRMNLGRP_POLICY, policy::DelGetMessage};
use rtnetlink::{
    MulticastGroup,
    packet_core::{
        ErrorBuffer, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
        NetlinkMessage, NetlinkPayload,
    },
    proto,
    sys::{
        Socket, SocketAddr,
        protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM},
    },
};
use tokio::{io::unix::AsyncFd, time::sleep};

use super::host::IpsecPolicy;
use crate::sys;

/// Rings when something has changed. What it was is not told: whoever hears it reads all of that
/// kind again, so nothing is lost when the kernel couldn't tell all.
pub struct Bell(Option<AsyncFd<Socket>>);

impl Bell {
    /// For addresses, devices and rules of routing.
    pub fn of_routing() -> io::Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        Self::new(NETLINK_ROUTE, &groups.map(|group| group as u32))
    }

    /// Never rings on a kernel without nftables.
    pub fn of_nftables() -> io::Result<Self> {
        const NFNLGRP_NFTABLES: u32 = 7;
        Self::where_supported(NETLINK_NETFILTER, NFNLGRP_NFTABLES)
    }

    /// Never rings on a kernel without IPsec.
    pub fn of_ipsec() -> io::Result<Self> {
        Self::where_supported(NETLINK_XFRM, XFRMNLGRP_POLICY)
    }

    fn where_supported(protocol: isize, group: u32) -> io::Result<Self> {
        match Self::new(protocol, &[group]) {
            Err(error) if is_unsupported(&error) => Ok(Self(None)),
            other => other,
        }
    }

    fn new(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Self(Some(sys::readable(socket)?)))
    }

    /// Waits until it has rung, once or more. One that is broken rings by the clock.
    pub async fn rung(&self) {
        const PERIOD: Duration = Duration::from_millis(250);
        match &self.0 {
            None => std::future::pending().await,
            Some(socket) => {
                if let Err(error) = drain(socket).await {
                    tracing::debug!("netlink tells of no changes any more: {error}");
                    sleep(PERIOD).await;
                }
            }
        }
    }
}

/// Waits for messages and throws them away.
async fn drain(socket: &AsyncFd<Socket>) -> io::Result<()> {
    let mut ready = socket.readable().await?;
    // What doesn't fit is cut off: nobody reads it.
    let mut buffer = [0_u8; 64];
    loop {
        match ready.try_io(|socket| socket.get_ref().recv(&mut &mut buffer[..], 0)) {
            Ok(Ok(_)) => {}
            // There were too many to tell, so there were some.
            Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => return Ok(()),
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPROTONOSUPPORT | libc::ENOENT | libc::EINVAL)
    )
}

pub async fn ipsec_policies() -> Result<Vec<IpsecPolicy>> {
    let (connection, handle, _) = match proto::new_connection::<XfrmMessage>(NETLINK_XFRM) {
        Ok(opened) => opened,
        Err(error) if is_unsupported(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error).context("opening netlink for IPsec"),
    };
    let connection = tokio::spawn(connection);
    let mut request = NetlinkMessage::from(XfrmMessage::GetPolicy(DelGetMessage::default()));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut answers = handle.request(request, SocketAddr::new(0, 0))?;
    let mut policies = Vec::new();
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::InnerMessage(XfrmMessage::AddPolicy(policy)) => {
                policies.extend(IpsecPolicy::from(&policy.user_policy_info));
            }
            NetlinkPayload::Error(error) => {
                return Err(error.to_io()).context("reading IPsec policies");
            }
            _ => {}
        }
    }
    connection.abort();
    Ok(policies)
}

/// For hosts without `nft`, which have no rules as a rule.
pub fn has_nftables() -> io::Result<bool> {
    const NFNL_SUBSYS_NFTABLES: u16 = 10;
    const NFT_MSG_GETTABLE: u16 = 1;
    const HEADER: u8 = 16;
    // nfgenmsg: any family, version 0.
    const LEN: u8 = HEADER + 4;
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    let mut request = [0; LEN as usize];
    let mut header = NetlinkBuffer::new(&mut request[..]);
    header.set_length(LEN.into());
    header.set_message_type(NFNL_SUBSYS_NFTABLES << u8::BITS | NFT_MSG_GETTABLE);
    header.set_flags(NLM_F_REQUEST | NLM_F_DUMP);
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkBuffer::new_checked(&answer[..]).map_err(io::Error::other)?;
    match answer.message_type() {
        NLMSG_DONE => Ok(false),
        NLMSG_ERROR => {
            let error = ErrorBuffer::new_checked(answer.payload()).map_err(io::Error::other)?;
            let error = io::Error::from_raw_os_error(error.code().map_or(0, |code| -code.get()));
            // A kernel without nftables knows no such request.
            is_unsupported(&error).then_some(false).ok_or(error)
        }
        _ => Ok(true),
    }
}
