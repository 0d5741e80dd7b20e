//! Netlink beyond rtnetlink: IPsec policies, whether nftables has any table.

use std::io;

use anyhow::{Context, Result};
use futures_util::StreamExt as _;
use netlink_packet_xfrm::{XfrmMessage, policy::DelGetMessage};
use rtnetlink::{
    packet_core::{
        ErrorBuffer, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
        NetlinkMessage, NetlinkPayload,
    },
    proto,
    sys::{
        Socket, SocketAddr,
        protocols::{NETLINK_NETFILTER, NETLINK_XFRM},
    },
};

use super::host::IpsecPolicy;
use crate::netns::is_unsupported;

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
