//! Values that can be typed, and what to write instead of what can't be.

use std::{num::NonZeroUsize, time::Duration};

use nix::unistd::Group;

use crate::{config::CloseAfter, header::Policy, netns::SteerNet};

pub fn count(text: &str) -> Result<NonZeroUsize, String> {
    text.parse()
        .map_err(|_| "write a number from 1 on, or leave it out".into())
}

pub fn header_max_len(text: &str) -> Result<usize, String> {
    let range = Policy::SMALLEST_MAX_LEN..=Policy::LARGEST_MAX_LEN;
    let parsed = text.parse().ok().filter(|len| range.contains(len));
    parsed.ok_or_else(|| format!("write a number from {} to {}", range.start(), range.end()))
}

/// By its name or number.
pub fn group(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    // A container may have no list of groups at all.
    let group = Group::from_name(text).ok().flatten();
    group
        .map(|group| group.gid.as_raw())
        .ok_or_else(|| "no such group on this host: make it, or write its number".into())
}

/// A name that is safe as a file's name.
pub fn name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if text.is_empty() || text.len() > 64 || !text.chars().all(plain) {
        return Err("use up to 64 letters, digits, - and _".into());
    }
    Ok(text.to_owned())
}

/// `5s`, `500ms`, `1m 30s`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|_| "write a time, as in 500ms, 5s or 1m".into())
}

pub fn close_after(text: &str) -> Result<CloseAfter, String> {
    CloseAfter::new(duration(text)?).ok_or_else(|| "write a time from 1s to 65535s".into())
}

pub fn steer<const V6: bool>(text: &str) -> Result<SteerNet, String> {
    let net: SteerNet = text.parse()?;
    if net.is_ipv6() != V6 {
        let other = if V6 { "--steer4" } else { "--steer6" };
        return Err(format!("that is the other family's: write {other} {net}"));
    }
    Ok(net)
}

/// Nothing is handed over any more.
pub fn handover(value: &str) -> Result<String, String> {
    Err(match value {
        "off" => "there is no handover any more: write --direct off".into(),
        _ => "there is no handover any more: leave it out, or write --direct auto".into(),
    })
}
