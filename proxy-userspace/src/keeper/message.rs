//! What daemon, keeper and taker say to each other. A taker may be of a later version than its keeper:
//! what is said before `Done` must stay as it is.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::item::Label;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    /// From a daemon, or from a taker, whose descriptors count from `Done` on. In the place of others
    /// of the same names.
    Hold(Vec<Label>),
    /// From a daemon: these are of no use any more, as when their device is gone.
    Release(Vec<String>),
    /// From a daemon or a taker.
    Orders(Orders),
    /// From a daemon that ends: do at once what you would do after my death.
    End,
    /// From a daemon that has another keeper: leave all as it is, and go.
    Leave,

    /// From a taker: give me all.
    Take,
    /// To a taker.
    Given(Given),
    /// To a taker, while there is another one.
    Busy,
    /// From a taker: from here on I am the daemon, and what I had you hold is what there is to hold.
    Done,
    /// To the taker: so it is.
    Yours,

    /// To the daemon that has started it: from here on the next one finds me.
    Ready,
    /// To the daemon that was: keep your hands off all that is shared, and serve what you have to its
    /// end. With the process id of the one that is.
    Replaced { by: i32 },
}

/// One of the messages that answer `Take`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Given {
    pub labels: Vec<Label>,
    /// With the last of them.
    pub end: Option<State>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub orders: Orders,
    /// The process id of the daemon that lives.
    pub daemon: Option<i32>,
}

/// What the keeper has to know to do its job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orders {
    /// What the maps' bytes mean. Equal sizes can hide different fields.
    pub layout: u32,
    /// The local addresses of the applications' connections.
    pub steer: Vec<IpAddr>,
    /// How long to wait for another daemon.
    pub grace: Duration,
}
