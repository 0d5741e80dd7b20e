//! How much of everything: `cargo xtask test` tries enough to find what is broken, `--all` as much as
//! is promised.

use std::env;

/// How often, or how many.
pub fn count(usual: u16, all: u16) -> u16 {
    if env::var_os("TRUEPEER_FULL").is_some() {
        all
    } else {
        usual
    }
}
