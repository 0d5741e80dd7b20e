//! What `truepeer status` shows.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    net::SocketAddr,
};

use proxy_common::limits::Limits;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub instance: String,
    pub pid: u32,
    /// The host's end of the veth.
    pub device: String,
    pub services: Vec<ServiceStatus>,
    /// Devices that drop who is no balancer.
    #[serde(default)]
    pub guards: Vec<GuardStatus>,
    /// None: there was none since its start.
    pub last_reload: Option<LastReload>,
    pub limits: TotalLimits,
    /// Counts over all services.
    pub connections: serde_json::Value,
    /// Counts of the eBPF programs, by verdict or reason.
    pub kernel: BTreeMap<String, u64>,
    /// Because nobody reads the log.
    pub log_lines_dropped: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub name: String,
    pub listen: Vec<SocketAddr>,
    pub targets: Vec<SocketAddr>,
    /// Nobody new gets in.
    #[serde(default)]
    pub drained: bool,
    /// Who is no balancer reaches what listens there itself.
    #[serde(default)]
    pub shares_listen: bool,
    /// Of each balancer, and of each client.
    #[serde(default)]
    pub each: EachLimits,
    /// Which path its connections take, by IP family.
    pub paths: Vec<PathStatus>,
    /// Of UDP.
    pub clients: Option<Clients>,
    /// Counts of both paths, nested ones under their own names.
    pub connections: serde_json::Value,
}

/// None: no limit. Of UDP, how many flows a balancer may have is told with its clients.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct EachLimits {
    pub maxconn_per_balancer: Option<u32>,
    pub maxconn_per_client: Option<u32>,
    /// New ones in a second.
    pub maxconnrate_per_balancer: Option<u32>,
    pub maxconnrate_per_client: Option<u32>,
}

impl From<Limits> for EachLimits {
    fn from(limits: Limits) -> Self {
        let set = |number: u32| (number != 0).then_some(number);
        Self {
            maxconn_per_balancer: set(limits.balancer.most),
            maxconn_per_client: set(limits.client.most),
            maxconnrate_per_balancer: set(limits.balancer.new_per_second),
            maxconnrate_per_client: set(limits.client.new_per_second),
        }
    }
}

impl Display for EachLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.maxconn_per_balancer, "of each balancer"),
            (self.maxconn_per_client, "of each client"),
            (
                self.maxconnrate_per_balancer,
                "new ones a second of each balancer",
            ),
            (
                self.maxconnrate_per_client,
                "new ones a second of each client",
            ),
        ];
        let set = all
            .iter()
            .filter_map(|(most, what)| Some(format!("{} {what}", (*most)?)));
        let set: Vec<_> = set.collect();
        match set.is_empty() {
            true => Ok(()),
            false => writeln!(f, "  limits: {}", set.join(", ")),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct GuardStatus {
    pub device: String,
    /// Of XDP: `native`, by the driver, or `generic`; `none` if it isn't guarded.
    pub mode: String,
    /// Why it isn't.
    #[serde(default)]
    pub problem: Option<String>,
}

impl GuardStatus {
    pub const fn is_guarded(&self) -> bool {
        self.problem.is_none()
    }
}

impl Display for GuardStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, mode) = (&self.device, &self.mode);
        match &self.problem {
            None => write!(f, "guard at {device}: {mode} XDP"),
            Some(problem) => write!(f, "guard at {device}: none: {problem}"),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct PathStatus {
    pub family: String,
    /// `direct` or `daemon`.
    pub path: String,
    /// Why it isn't direct.
    pub reasons: Vec<ReasonStatus>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ReasonStatus {
    pub name: String,
    /// For people.
    pub text: String,
}

/// The clients that are remembered.
#[derive(Debug, Serialize, Deserialize)]
pub struct Clients {
    pub now: u64,
    pub most: u32,
    pub most_per_balancer: u32,
    /// What has gone each way for those of now.
    pub up: Moved,
    pub down: Moved,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Moved {
    pub datagrams: u64,
    /// Without headers.
    pub bytes: u64,
}

/// How many connections there are, and may be.
#[derive(Debug, Serialize, Deserialize)]
pub struct TotalLimits {
    /// By the limit of open files.
    pub daemon: usize,
    /// By the flow table.
    pub direct: usize,
    /// Of both together, if it was given.
    pub maxconn: Option<usize>,
}

/// How `truepeer reload` went, or would go.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reloaded {
    Done {
        /// On the lists, from the configuration.
        prefixes: usize,
        /// Services, a line each.
        changes: Vec<String>,
    },
    /// What was wrong; all is as it was.
    Refused(String),
}

/// The last one since the daemon's start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastReload {
    /// As in RFC 3339.
    pub at: String,
    pub outcome: Reloaded,
}

impl Display for LastReload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "last reload {}: ", self.at)?;
        match &self.outcome {
            Reloaded::Done { changes, .. } => {
                write!(f, "done, {} services changed", changes.len())
            }
            Reloaded::Refused(why) => write!(f, "refused: {why}"),
        }
    }
}

impl Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            version,
            instance,
            pid,
            device,
            ..
        } = self;
        writeln!(
            f,
            "truepeer {version}, instance {instance}, pid {pid}, device {device}"
        )?;
        for guard in &self.guards {
            writeln!(f, "{guard}")?;
        }
        if let Some(last) = &self.last_reload {
            writeln!(f, "{last}")?;
        }
        for service in &self.services {
            let list = |addrs: &[SocketAddr]| {
                let each: Vec<_> = addrs.iter().map(ToString::to_string).collect();
                each.join(", ")
            };
            let (listen, targets) = (list(&service.listen), list(&service.targets));
            let drained = if service.drained { ", drained" } else { "" };
            let shares = match service.shares_listen {
                true => " (outsiders go to the application)",
                false => "",
            };
            writeln!(
                f,
                "service {}{drained}: {listen}{shares} -> {targets}",
                service.name
            )?;
            for path in &service.paths {
                writeln!(f, "  {path}")?;
            }
            write!(f, "{}", service.each)?;
            if let Some(clients) = &service.clients {
                write!(f, "{clients}")?;
            }
            write_counts(f, &service.connections)?;
        }
        writeln!(f, "{}", self.limits)?;
        writeln!(f, "kernel:")?;
        for (name, count) in self.kernel.iter().filter(|(_, count)| **count > 0) {
            writeln!(f, "  {name} {count}")?;
        }
        if self.log_lines_dropped > 0 {
            writeln!(f, "log lines dropped: {}", self.log_lines_dropped)?;
        }
        Ok(())
    }
}

impl Display for TotalLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            daemon,
            direct,
            maxconn,
        } = self;
        write!(f, "limits: {direct} direct, {daemon} by the daemon")?;
        match maxconn {
            Some(both) => write!(f, ", {both} of both together"),
            None => Ok(()),
        }
    }
}

impl Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            now,
            most,
            most_per_balancer,
            up,
            down,
        } = self;
        writeln!(
            f,
            "  limits: {most} clients, {most_per_balancer} of each balancer"
        )?;
        writeln!(f, "  clients now {now}: {up} up, {down} down")
    }
}

impl Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { datagrams, bytes } = self;
        write!(f, "{datagrams} datagrams of {bytes} bytes")
    }
}

impl Display for PathStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} path {}", self.family, self.path)?;
        for (index, reason) in self.reasons.iter().enumerate() {
            let before = if index == 0 { ":" } else { ";" };
            write!(f, "{before} {}", reason.text)?;
        }
        Ok(())
    }
}

fn write_counts(f: &mut fmt::Formatter<'_>, counts: &serde_json::Value) -> fmt::Result {
    for (name, value) in counts.as_object().into_iter().flatten() {
        match value.as_object() {
            None => writeln!(f, "  {name} {value}")?,
            Some(nested) => {
                for (reason, count) in nested {
                    writeln!(f, "  {name} {reason} {count}")?;
                }
            }
        }
    }
    Ok(())
}
