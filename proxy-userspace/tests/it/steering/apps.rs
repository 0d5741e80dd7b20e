//! Whatever an app on this host is bound to.

use anyhow::{Result, ensure};

use super::{
    ADDRESS_V4, ADDRESS_V6, Bound, CLIENT_PORT, DUAL_V4, LOOPBACK_V4, LOOPBACK_V6, Talk,
    WILDCARD_V4, WILDCARD_V6, datagrams, holds, rows, v4, v6,
};
use crate::lab::Lab;
use crate::lab::addr::{CLIENT, FRONT, FRONT_PORT, HOST, TRUEPEER_PORT};
use crate::lab::app::App;
use crate::lab::header::Version;
use crate::lab::poll;

rows! {
    on_a_plain_host: |_| Ok(()) => wildcard_v4 loopback_v4 address_v4 dual_v4 wildcard_v6 loopback_v6 address_v6;
}

/// The device of the app's address needn't be the uplink.
mod at_an_address_of_lo {
    use super::*;

    fn set_up(lab: &Lab) -> Result<()> {
        lab.host.ip("address add 10.0.0.5/32 dev lo
             address add fd00::5/128 dev lo nodad")
    }

    #[test]
    fn v4() -> Result<()> {
        holds(super::v4("10.0.0.5:8080".parse()?), set_up)
    }

    #[test]
    fn v6() -> Result<()> {
        holds(super::v6("[fd00::5]:8080".parse()?), set_up)
    }

    #[test]
    fn udp_v4() -> Result<()> {
        datagrams::hold(super::v4("10.0.0.5:8080".parse()?), set_up)
    }

    #[test]
    fn udp_v6() -> Result<()> {
        datagrams::hold(super::v6("[fd00::5]:8080".parse()?), set_up)
    }
}

/// The same with the other header, over IPv6 between balancer and host, and bulk data.
macro_rules! in_bulk {
    ($($name:ident $app:ident;)*) => { $(
        #[test]
        fn $name() -> Result<()> {
            in_bulk_over_ipv6($app)
        }
    )* };
}

mod v1_over_ipv6_in_bulk {
    use super::*;

    in_bulk! {
        wildcard_v4 WILDCARD_V4;
        loopback_v4 LOOPBACK_V4;
        address_v4 ADDRESS_V4;
        dual_v4 DUAL_V4;
        wildcard_v6 WILDCARD_V6;
        loopback_v6 LOOPBACK_V6;
        address_v6 ADDRESS_V6;
    }
}

fn in_bulk_over_ipv6(bound: Bound) -> Result<()> {
    let lab = Lab::new()?;
    let app = App::listen(&lab.host, bound.to)?;
    let _truepeer = lab.truepeer().targets_for(bound.to).start()?;
    let client = bound.client;
    let header = Version::V1.header(client, FRONT.like(client, FRONT_PORT));
    let balancer = lab.balancer_to(HOST.v6(TRUEPEER_PORT), &header)?;
    Talk::accept(balancer, &app, client)?.bulk()
}

mod shared_by_reuseport {
    use super::*;

    macro_rules! shared {
        ($($name:ident $app:ident;)*) => { $(
            #[test]
            fn $name() -> Result<()> {
                several_listeners($app)
            }
        )* };
    }

    shared! {
        wildcard_v4 WILDCARD_V4;
        loopback_v4 LOOPBACK_V4;
        address_v4 ADDRESS_V4;
        wildcard_v6 WILDCARD_V6;
        loopback_v6 LOOPBACK_V6;
        address_v6 ADDRESS_V6;
    }
}

/// Every listener gets its share: 32 connections all to one of two would be a coin's 31 in a row.
fn several_listeners(bound: Bound) -> Result<()> {
    const CONNECTIONS: u16 = 32;
    let lab = Lab::new()?;
    let apps = [
        App::share(&lab.host, bound.to)?,
        App::share(&lab.host, bound.to)?,
    ];
    let _truepeer = lab.truepeer().targets_for(bound.to).start()?;
    let mut shares = [0, 0];
    for n in 0..CONNECTIONS {
        let client = CLIENT.like(bound.client, CLIENT_PORT + n);
        let header = Version::V2.header(client, FRONT.like(client, FRONT_PORT));
        let balancer = lab.balancer(&header)?;
        let (which, (stream, peer)) = poll::until("either listener", || {
            for (which, app) in apps.iter().enumerate() {
                if let Some(accepted) = app.accept_now()? {
                    return Ok(Some((which, accepted)));
                }
            }
            Ok(None)
        })?;
        assert_eq!(peer, client);
        shares[which] += 1;
        Talk {
            balancer,
            app: stream,
        }
        .round_trip()?;
    }
    ensure!(shares[0] > 0 && shares[1] > 0, "shares of {shares:?}");
    Ok(())
}
