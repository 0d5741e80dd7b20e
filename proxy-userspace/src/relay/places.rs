//! How many connections each balancer and each client may have, whoever counts them.

use std::{
    fmt, mem,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::future::BoxFuture;

use super::{Balancer, Client};

/// Knows how many connections there are of each balancer and client, and may be.
pub trait Places: Send + Sync {
    /// For whom a new connection is counted; nothing where nobody is limited.
    fn claim(&self, of: &Of) -> Result<Counted, Exceeded>;
    /// Whether a connection has to be counted for somebody whom it isn't counted for.
    fn lacks(&self, of: &Of, counted: Counted) -> bool;
    /// Counts one that is there for all whom it has to be counted for.
    fn count(&self, of: &Of, counted: Counted) -> Counted;
    fn release(&self, of: &Of, counted: Counted);
    /// Until it is known which connections that don't come by here have just ended.
    fn look(&self) -> BoxFuture<'_, ()>;
}

/// Of which service a connection is, and between whom.
#[derive(Clone, Copy, Debug)]
pub struct Of {
    pub service: u32,
    pub balancer: IpAddr,
    pub client: IpAddr,
}

/// For whom a connection is counted, in the words of who counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted(pub u32);

/// Which limit keeps a connection from being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exceeded {
    BalancerMaxconn,
    ClientMaxconn,
    BalancerMaxconnrate,
    ClientMaxconnrate,
    /// So many balancers and clients have connections that no more can be counted.
    Uncounted,
}

impl Exceeded {
    #[cfg(test)]
    pub const ALL: [Self; 5] = [
        Self::BalancerMaxconn,
        Self::ClientMaxconn,
        Self::BalancerMaxconnrate,
        Self::ClientMaxconnrate,
        Self::Uncounted,
    ];

    /// The stable name under which it is counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BalancerMaxconn => "balancer_maxconn",
            Self::ClientMaxconn => "client_maxconn",
            Self::BalancerMaxconnrate => "balancer_maxconnrate",
            Self::ClientMaxconnrate => "client_maxconnrate",
            Self::Uncounted => "limits_full",
        }
    }

    /// Whether another connection's end would have changed it.
    const fn is_full(self) -> bool {
        matches!(self, Self::BalancerMaxconn | Self::ClientMaxconn)
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BalancerMaxconn => {
                "its balancer has as many connections as --maxconn-per-balancer says"
            }
            Self::ClientMaxconn => "it has as many connections as --maxconn-per-client says",
            Self::BalancerMaxconnrate => {
                "its balancer opens more in a second than --maxconnrate-per-balancer says"
            }
            Self::ClientMaxconnrate => {
                "it opens more in a second than --maxconnrate-per-client says"
            }
            Self::Uncounted => "so many clients have connections that no more can be counted",
        })
    }
}

/// A connection's. Dropped, it is somebody else's.
pub struct Place {
    places: Arc<dyn Places>,
    of: Of,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
enum State {
    Counted(Counted),
    /// The connection is over.
    Released,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("of", &self.of).finish()
    }
}

impl Place {
    /// Where there is none, those that don't come by here may have ended since they were last looked at.
    pub async fn claim(
        places: &Arc<dyn Places>,
        service: u32,
        balancer: Balancer,
        client: Client,
    ) -> Result<Self, Exceeded> {
        let of = Of {
            service,
            balancer: balancer.0.ip(),
            client: client.0.ip(),
        };
        let claimed = match places.claim(&of) {
            Err(exceeded) if exceeded.is_full() => {
                places.look().await;
                places.claim(&of)
            }
            claimed => claimed,
        };
        Ok(Self {
            state: Mutex::new(State::Counted(claimed?)),
            places: places.clone(),
            of,
        })
    }

    /// Has it counted for those as well whom there are limits for by now.
    pub fn count(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Counted(counted) = &mut *state
            && self.places.lacks(&self.of, *counted)
        {
            *counted = self.places.count(&self.of, *counted);
        }
    }

    /// Its connection is over.
    pub fn release(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = mem::replace(&mut *state, State::Released);
        if let State::Counted(counted) = before
            && counted != Counted::default()
        {
            self.places.release(&self.of, counted);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.release();
    }
}
