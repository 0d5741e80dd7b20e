//! What becomes of a connection whose client can't be spoofed.

use std::net::IpAddr;

use super::{Balancer, Client, End, Martian, OwnAddresses, Route, Service, client};

/// A service's answers where the header names no client that the application could be shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientPolicy {
    pub on_local: OnLocal,
    pub on_no_target: Fallback,
    pub on_martian: Fallback,
}

/// The balancer speaks for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLocal {
    /// Its own address is the client's.
    #[default]
    Balancer,
    Reject,
}

/// The header names a client that can't be spoofed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    #[default]
    Reject,
    /// The application sees this host.
    Unspoofed,
}

/// How the application is to be reached.
pub struct Way {
    pub client: Client,
    pub route: Route,
    pub spoofed: bool,
    /// What keeps its client from being spoofed, if it is the client's address.
    pub martian: Option<Martian>,
    /// The client's address where that is this host's: it is connected from as it is.
    pub own: Option<IpAddr>,
}

impl Way {
    /// `claimed` is canonical; none: the balancer speaks for itself.
    pub fn find(
        claimed: Option<Client>,
        balancer: Balancer,
        service: &Service,
        own: &dyn OwnAddresses,
    ) -> Result<Self, End> {
        if claimed.is_none() && service.clients.on_local == OnLocal::Reject {
            return Err(End::Local);
        }
        let client = claimed.unwrap_or(Client(balancer.0));
        let address = client.0.ip();
        let refused = |martian: &Martian| {
            // A balancer on this very host needs no spoofing, and it couldn't be done either.
            *martian != Martian::Own
                && claimed.is_some()
                && service.clients.on_martian == Fallback::Reject
        };
        let mut martian = client::check(address, own).err();
        if let Some(martian) = martian.filter(refused) {
            return Err(End::Client { client, martian });
        }
        let (route, is_of_family) = match service.routes(&client) {
            (Some(route), _) => (route, true),
            (None, Some(other)) if service.clients.on_no_target == Fallback::Unspoofed => {
                (other, false)
            }
            (None, _) => return Err(End::NoTarget(client)),
        };
        if martian.is_none() && address == route.target.0.ip() {
            martian = Some(Martian::Target);
            if let Some(martian) = martian.filter(refused) {
                return Err(End::Client { client, martian });
            }
        }
        let own = (martian == Some(Martian::Own)).then_some(address);
        let fits = |own: &IpAddr| own.is_ipv4() == route.target.0.is_ipv4();
        Ok(Self {
            client,
            route,
            spoofed: is_of_family && martian.is_none(),
            martian,
            own: own.filter(fits),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        header::Policy,
        relay::{Application, Own, Target},
    };

    struct Host;

    impl OwnAddresses for Host {
        fn find(&self, address: &IpAddr) -> Option<Own> {
            (address.to_string() == "198.51.100.2").then_some(Own::Unicast)
        }
    }

    /// Has an IPv4 target only.
    fn service(clients: ClientPolicy) -> Service {
        let target = Target(([10, 80, 0, 2], 80).into());
        let application = Application::new(target, ([169, 254, 80, 80], 80).into(), false);
        Service {
            id: 0,
            name: "default".into(),
            policy: Policy::default(),
            clients,
            header_timeout: Duration::MAX,
            connect_timeout: Duration::MAX,
            applications: [Some(Arc::new(application)), None],
        }
    }

    /// Whether it is spoofed, or the name of the refusal.
    fn outcome(claimed: Option<&str>, clients: ClientPolicy) -> Result<bool, &'static str> {
        let claimed =
            claimed.map(|ip| Client((ip.parse::<IpAddr>().expect("an address"), 1).into()));
        let balancer = Balancer(([198, 51, 100, 1], 2).into());
        Way::find(claimed, balancer, &service(clients), &Host)
            .map(|way| way.spoofed)
            .map_err(|end| end.name())
    }

    #[test]
    fn each_answer_is_for_its_own_case() {
        let default = ClientPolicy::default();
        let on_local = ClientPolicy {
            on_local: OnLocal::Reject,
            ..default
        };
        let on_no_target = ClientPolicy {
            on_no_target: Fallback::Unspoofed,
            ..default
        };
        let on_martian = ClientPolicy {
            on_martian: Fallback::Unspoofed,
            ..default
        };
        for (claimed, policy, expected) in [
            (Some("203.0.113.9"), default, Ok(true)),
            (Some("203.0.113.9"), on_local, Ok(true)),
            (None, default, Ok(true)),
            (None, on_local, Err("local_refused")),
            (Some("2001:db8::9"), default, Err("no_target")),
            (Some("2001:db8::9"), on_no_target, Ok(false)),
            (Some("127.0.0.1"), default, Err("client_loopback")),
            (Some("127.0.0.1"), on_no_target, Err("client_loopback")),
            (Some("127.0.0.1"), on_martian, Ok(false)),
            (Some("198.51.100.2"), default, Ok(false)),
            (Some("10.80.0.2"), default, Err("client_target_address")),
            (Some("10.80.0.2"), on_martian, Ok(false)),
            (Some("::1"), on_martian, Err("no_target")),
        ] {
            assert_eq!(outcome(claimed, policy), expected, "{claimed:?} {policy:?}");
        }
    }
}
