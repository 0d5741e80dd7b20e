//! RCU grace periods: what the tests of the daemon wait for most, all of them together. The kernel
//! waits for one, with the lock of all network devices held, whenever a program comes onto a device or
//! goes, and for several until a namespace is gone.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context, Result};

use crate::privilege::as_root;
use crate::proc::step;

/// More than zero: the kernel makes them short, at the cost of interrupting every CPU.
const KNOB: &str = "/sys/kernel/rcu_expedited";

/// Counts up, and down again once standard input ends: other runs may count too. Ctrl-C reaches it as
/// well.
const HOLD: &str = r#"
trap '' INT TERM HUP
exec 9< "$0"
count() { flock 9 && echo $(($(cat "$0") + $1)) > "$0" && flock -u 9; }
count 1 && echo held && cat > /dev/null && count -1
"#;

/// Has them short until it is dropped. A process of its own puts the kernel's pace back, which it does
/// however this one ends.
pub struct Short(Child);

impl Short {
    pub fn hold() -> Result<Self> {
        let mut hold = as_root("sh");
        hold.args(["-c", HOLD, KNOB]);
        hold.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = hold.spawn().context("cannot start sh")?;
        let mut said = String::new();
        if let Some(output) = holder.stdout.take() {
            BufReader::new(output).read_line(&mut said)?;
        }
        if said.is_empty() {
            step(format_args!("{KNOB} can't be set: tests take longer"));
        }
        Ok(Self(holder))
    }
}

impl Drop for Short {
    fn drop(&mut self) {
        // Ends its standard input first.
        if let Err(error) = self.0.wait() {
            step(format_args!("see to {KNOB}, which was zero: {error}"));
        }
    }
}
