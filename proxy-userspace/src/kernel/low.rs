//! Low file descriptors for the programs' links.
//!
//! When the process is killed, the kernel closes its descriptors from the highest to the lowest. The
//! sockets' resets still need the programs, so links have to be lower than all sockets, whatever has
//! been closed in between.

use std::{fs::File, io};

/// Held open for links to come, the lowest one last.
#[derive(Default)]
pub struct LowFds(Vec<File>);

impl LowFds {
    /// Enough for twenty devices; further ones get what is free.
    const COUNT: usize = 64;

    /// Before anything else opens files.
    pub fn hold() -> io::Result<Self> {
        let mut held = (0..Self::COUNT)
            .map(|_| placeholder())
            .collect::<io::Result<Vec<_>>>()?;
        held.reverse();
        Ok(Self(held))
    }

    /// Lets one go: what is opened next gets it.
    pub fn release(&mut self) {
        self.0.pop();
    }

    /// Takes one that a link had.
    pub fn refill(&mut self) {
        // Not worth an error: at most, an abrupt end is less tidy.
        self.0.extend(placeholder());
    }
}

fn placeholder() -> io::Result<File> {
    File::open("/dev/null")
}
