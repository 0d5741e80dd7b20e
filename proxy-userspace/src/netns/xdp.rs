//! Programs of XDP that devices have, whoever put them there.

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkLayerType, LinkXdp, XdpAttached};

use super::netlink;

/// What a device's driver is told.
pub struct Driver {
    pub is_ethernet: bool,
    pub has_program: bool,
}

/// None: there is no such device.
pub async fn driver(device: &str) -> Result<Option<Driver>> {
    let netlink = netlink()?;
    let mut links = netlink.link().get().match_name(device).execute();
    let link = match links.try_next().await {
        Ok(Some(link)) => link,
        Ok(None) => return Ok(None),
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENODEV => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("asking for {device}")),
    };
    let xdp = link
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => xdp.as_slice(),
            _ => &[],
        });
    let mut attached = xdp.filter_map(|xdp| match xdp {
        LinkXdp::Attached(attached) => Some(attached),
        _ => None,
    });
    Ok(Some(Driver {
        is_ethernet: link.header.link_layer_type == LinkLayerType::Ether,
        has_program: attached.any(|attached| *attached != XdpAttached::None),
    }))
}
