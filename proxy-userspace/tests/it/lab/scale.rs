//! How much of what takes long: little on every run, everything when asked.

use std::env;

/// Set to anything, tests that count do it with their full counts; some take minutes then.
const FULL: &str = "TRUEPEER_FULL";

pub fn scaled<T>(small: T, full: T) -> T {
    match env::var_os(FULL) {
        Some(_) => full,
        None => small,
    }
}
