//! Numbers of the kernel's that are the whole machine's, and that tests need higher.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context, Result};

use crate::privilege::as_root;
use crate::proc::step;

pub struct Knob {
    path: &'static str,
    more: u32,
    without: &'static str,
}

/// RCU grace periods are what the tests of the daemon wait for most, all of them together. The kernel waits for one, with
/// the lock of all network devices held, whenever a program comes onto a device or goes, and for several until a
/// namespace is gone. This makes them short, at the cost of interrupting every CPU.
pub const SHORT_GRACE_PERIODS: Knob = Knob {
    path: "/sys/kernel/rcu_expedited",
    more: 1,
    without: "tests take longer",
};

/// How many packets may wait for a CPU, of all namespaces together. What comes beside those of a test that sends many at
/// once is lost, be it another test's only one.
pub const BACKLOG: Knob = Knob {
    path: "/proc/sys/net/core/netdev_max_backlog",
    more: 100_000,
    without: "tests may lose packets to one another",
};

/// Counts up, and down again once standard input ends: other runs may count too. Ctrl-C reaches it as
/// well.
const HOLD: &str = r#"
trap '' INT TERM HUP
exec 9< "$0"
count() { flock 9 && echo $(($(cat "$0") + $1)) > "$0" && flock -u 9; }
count "$1" && echo held && cat > /dev/null && count "-$1"
"#;

/// Has it higher until it is dropped. A process of its own puts back what it was, which it does however this one ends.
pub struct Held {
    knob: Knob,
    holder: Child,
}

impl Knob {
    pub fn hold(self) -> Result<Held> {
        let mut hold = as_root("sh");
        hold.args(["-c", HOLD, self.path, &self.more.to_string()]);
        hold.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = hold.spawn().context("cannot start sh")?;
        let mut said = String::new();
        if let Some(output) = holder.stdout.take() {
            BufReader::new(output).read_line(&mut said)?;
        }
        if said.is_empty() {
            step(format_args!("{} can't be set: {}", self.path, self.without));
        }
        Ok(Held { knob: self, holder })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Knob { path, more, .. } = self.knob;
        // Ends its standard input first.
        if let Err(error) = self.holder.wait() {
            step(format_args!(
                "see to {path}, which was {more} less: {error}"
            ));
        }
    }
}
