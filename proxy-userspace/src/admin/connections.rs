//! What `truepeer connections` shows.

use std::{
    fmt::{self, Display},
    net::SocketAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One open connection.
#[derive(Debug, Serialize, Deserialize)]
pub struct ConnectionStatus {
    pub service: String,
    pub client: SocketAddr,
    pub balancer: SocketAddr,
    pub target: SocketAddr,
    /// False: the application sees this host, and not the client.
    pub spoofed: bool,
    /// For how long it has been open.
    pub seconds: u64,
    pub header: HeaderStatus,
    /// `direct`: from the balancer to the application by the kernel alone. `daemon`: by a relay.
    pub path: String,
    /// Bytes, without the header.
    pub up: u64,
    pub down: u64,
    /// Of UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datagrams: Option<DatagramCounts>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct DatagramCounts {
    pub up: u64,
    pub down: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct HeaderStatus {
    pub version: String,
    pub command: String,
    /// An array of types and values; what the balancer chose is escaped and bounded in there.
    pub tlvs: Value,
    /// How many there were besides.
    pub tlvs_left_out: u16,
}

/// For people.
pub struct Table<'a>(pub &'a [ConnectionStatus]);

const TITLES: [&str; 10] = [
    "SERVICE", "CLIENT", "BALANCER", "TARGET", "SPOOFED", "PATH", "SINCE", "UP", "DOWN", "HEADER",
];

impl ConnectionStatus {
    fn cells(&self) -> [String; TITLES.len()] {
        let seconds = Duration::from_secs(self.seconds);
        let [up, down] = match self.datagrams {
            None => [self.up.to_string(), self.down.to_string()],
            Some(DatagramCounts { up, down }) => [(self.up, up), (self.down, down)]
                .map(|(bytes, datagrams)| format!("{bytes} in {datagrams}")),
        };
        [
            self.service.clone(),
            self.client.to_string(),
            self.balancer.to_string(),
            self.target.to_string(),
            yes_or_no(self.spoofed),
            self.path.clone(),
            humantime::format_duration(seconds).to_string(),
            up,
            down,
            self.header.to_string(),
        ]
    }
}

fn yes_or_no(value: bool) -> String {
    if value { "yes" } else { "no" }.into()
}

impl Display for HeaderStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.version, self.command)?;
        for tlv in self.tlvs.as_array().into_iter().flatten() {
            let (kind, value) = (tlv["type"].as_str().unwrap_or_default(), &tlv["value"]);
            match value.as_str() {
                Some(text) => write!(f, " {kind}=\"{text}\"")?,
                None => write!(f, " {kind}={value}")?,
            }
        }
        match self.tlvs_left_out {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![TITLES.map(String::from)];
        rows.extend(self.0.iter().map(ConnectionStatus::cells));
        let widths: [usize; TITLES.len()] = std::array::from_fn(|column| {
            let lengths = rows.iter().map(|row| row[column].len());
            lengths.max().unwrap_or_default()
        });
        for row in rows {
            let padded = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:width$}"));
            let line = padded.collect::<Vec<_>>().join("  ");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
