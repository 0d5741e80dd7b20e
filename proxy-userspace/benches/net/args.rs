//! What was asked for.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::kind::Kind;
use crate::window::Window;

#[derive(Parser)]
#[command(about = "Measure truepeer beside its peers")]
pub struct Args {
    /// Shorter and fewer rounds, fewer idle connections: for a first look
    #[arg(long)]
    quick: bool,
    /// Only scenarios with one of these in their name, such as up-1, ping, connect, changes, idle, steering, udp; "connect=" is that one alone
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
    /// Only these contenders
    #[arg(long, value_name = "NAME", num_args = 1.., value_enum)]
    contender: Vec<Kind>,
    /// Rounds in which each contender has its turn [default: 7, quick: 2]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// The root of the Debian release that the peers are from
    #[arg(long, value_name = "DIRECTORY")]
    pub peers: Option<PathBuf>,
    /// Where to write all figures
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// In which document to write the table, between its marks
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Where to draw the chart
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Idle connections, or flows of UDP, held by as many processes as their limits of files demand
    /// [default: 50000, quick: 2000]
    #[arg(long, value_name = "N")]
    idle: Option<usize>,
    /// Count each proxy's system calls per connection as well
    #[arg(long)]
    pub strace: bool,
    /// Let whoever receives a stream read its bytes, not only count and discard them
    #[arg(long)]
    pub copy: bool,
    /// Cargo passes it
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    /// `connect=` wants that one alone of those that begin with it.
    pub fn wants(&self, scenario: &str) -> bool {
        let is_wanted = |name: &String| match name.strip_suffix('=') {
            Some(whole) => scenario == whole,
            None => scenario.contains(name.as_str()),
        };
        self.only.is_empty() || self.only.iter().any(is_wanted)
    }

    pub fn contenders(&self) -> Vec<Kind> {
        let wanted = |kind: &Kind| self.contender.is_empty() || self.contender.contains(kind);
        Kind::ALL.into_iter().filter(wanted).collect()
    }

    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 2 } else { 7 })
    }

    pub fn idle(&self) -> usize {
        self.idle.unwrap_or(if self.quick { 2_000 } else { 50_000 })
    }

    pub fn window(&self) -> Window {
        let (warm, run) = if self.quick { (150, 400) } else { (250, 1200) };
        Window {
            warm: Duration::from_millis(warm),
            run: Duration::from_millis(run),
        }
    }
}
