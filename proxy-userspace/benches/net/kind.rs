//! The contenders by name.

use clap::ValueEnum;

use crate::files;
use crate::protocol::Protocol;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    Direct,
    /// As its flags are when nobody says anything.
    Truepeer,
    /// truepeer with all connections in the daemon.
    Daemon,
    GoMmproxy,
    Haproxy,
    Nginx,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::Direct,
        Self::Truepeer,
        Self::Daemon,
        Self::GoMmproxy,
        Self::Haproxy,
        Self::Nginx,
    ];

    /// A peer's is its Debian package's too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Truepeer => "truepeer",
            Self::Daemon => "daemon",
            Self::GoMmproxy => "go-mmproxy",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    pub fn is_peer(self) -> bool {
        matches!(self, Self::GoMmproxy | Self::Haproxy | Self::Nginx)
    }

    pub fn is_truepeer(self) -> bool {
        matches!(self, Self::Truepeer | Self::Daemon)
    }

    /// Files that a connection, or a flow of UDP, has open.
    pub fn files_each(self, protocol: Protocol) -> u64 {
        match self {
            Self::GoMmproxy if protocol != Protocol::Tcp => 1,
            _ if protocol != Protocol::Tcp => 0,
            // go-mmproxy waits with a pipe in its hand for each direction.
            Self::GoMmproxy => 3 * files::ENDS,
            Self::Direct => 0,
            _ => files::ENDS,
        }
    }
}
