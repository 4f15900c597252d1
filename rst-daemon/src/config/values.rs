//! What a value of the file may be, and what is said of one that it may not.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::{DEFAULT_DATA_DIR, DEFAULT_SOCKET};
use crate::when;

/// Longest path of a UNIX socket: `sun_path` less its terminating zero.
pub(super) const MAX_SOCKET_PATH: usize = 107;

/// Smallest and largest ring buffer.
pub(super) const RING_BYTES: RangeInclusive<u32> = 4096..=1 << 30;

/// Smallest and largest count table.
pub(super) const MAX_SERIES: RangeInclusive<u32> = 64..=1_000_000;

/// Fewest and most ports, or workloads, told apart.
pub(super) const MAX_LABELS: RangeInclusive<u32> = 1..=65_534;

/// Shortest and longest silence that can count as idle: below a jiffy nothing
/// can be told, above a day nothing is idle.
pub(super) const IDLE_MS: RangeInclusive<u32> = 10..=86_400_000;

/// Least and most of one CPU, percent: 100 is all of it.
pub(super) const MAX_CPU: RangeInclusive<u32> = 1..=100;

/// Least and most memory, megabytes.
pub(super) const MAX_MEMORY: RangeInclusive<u32> = 16..=65_536;

/// Fewest and most sockets, or closed connections, remembered.
pub(super) const REMEMBERED: RangeInclusive<u32> = 64..=1 << 26;

/// Fewest and most resets that an incident has at least.
pub(super) const INCIDENT_RESETS: RangeInclusive<u32> = 1..=1_000_000;

/// Shortest and longest time before incidents, and after one.
pub(super) const INCIDENT_SECONDS: RangeInclusive<u32> = 2..=86_400;
/// Smallest and largest store, megabytes; 0 is none.
pub(super) const STORE_MB: RangeInclusive<u32> = 16..=1 << 20;

/// Shortest time that resets are kept.
pub(super) const SHORTEST_STORE: Duration = Duration::from_secs(60);

pub(super) fn address(value: &DeValue<'_>) -> Result<SocketAddr, String> {
    let text = string(value)?;
    text.parse().map_err(|_| {
        format!("is {text:?}; write an IP address and a port, such as \"127.0.0.1:10004\" or \"[::1]:10004\"")
    })
}

pub(super) fn socket(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let text = string(value)?;
    if !text.starts_with('/') || text.contains('\0') {
        return Err(format!(
            "is {text:?}; write an absolute path, such as {DEFAULT_SOCKET:?}"
        ));
    }
    socket_flag(text).map_err(|problem| format!("is {problem}"))
}

/// None where it is empty. The example is for the message.
pub(super) fn optional_path(value: &DeValue<'_>, example: &str) -> Result<Option<PathBuf>, String> {
    let text = string(value)?;
    if text.is_empty() {
        return Ok(None);
    }
    if !text.starts_with('/') || text.contains('\0') {
        return Err(format!(
            "is {text:?}; write an absolute path, such as {example:?}, or \"\" for none"
        ));
    }
    Ok(Some(text.into()))
}

pub(super) fn data_dir(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let text = string(value)?;
    if !text.starts_with('/') || text.contains('\0') {
        return Err(format!(
            "is {text:?}; write an absolute path, such as {DEFAULT_DATA_DIR:?}"
        ));
    }
    Ok(text.into())
}

pub(super) fn store_mb(value: &DeValue<'_>) -> Result<u32, String> {
    let size = integer(value, 0..=*STORE_MB.end())?;
    if size != 0 && !STORE_MB.contains(&size) {
        return Err(format!(
            "is {size}; write 0 for no store, or a number from {} to {}",
            STORE_MB.start(),
            STORE_MB.end()
        ));
    }
    Ok(size)
}

pub(super) fn store_age(value: &DeValue<'_>) -> Result<Duration, String> {
    let text = string(value)?;
    when::duration(text)
        .ok()
        .filter(|age| *age >= SHORTEST_STORE)
        .ok_or_else(|| {
            format!(
                "is {text:?}; write a duration of a minute at least, such as \"12h\" or \"30d\""
            )
        })
}

/// A socket's path as a flag gives it: it may be relative.
pub(super) fn socket_flag(text: &str) -> Result<PathBuf, String> {
    if text.len() > MAX_SOCKET_PATH {
        return Err(format!(
            "a path of {} bytes; a UNIX socket's has at most {MAX_SOCKET_PATH}, choose a shorter one",
            text.len()
        ));
    }
    Ok(text.into())
}

/// Whether it is a multiple of the page size follows from the power of two on
/// all but the smallest sizes, and those the loader rounds up.
pub(super) fn ring_bytes(value: &DeValue<'_>) -> Result<u32, String> {
    let bytes = integer(value, RING_BYTES)?;
    if bytes.is_power_of_two() {
        return Ok(bytes);
    }
    // The range ends at a power of two, so neither neighbour overflows.
    let above = bytes.next_power_of_two();
    Err(format!(
        "is {bytes}; write a power of two, such as {} or {above}",
        above / 2
    ))
}

pub(super) fn ports(value: &DeValue<'_>) -> Result<Vec<u16>, String> {
    let list = value.as_array().ok_or_else(|| {
        format!(
            "is of type {}; write a list of ports, such as [443, 5432]",
            value.type_str()
        )
    })?;
    list.iter()
        .map(|port| {
            let port = integer(port.get_ref(), 1..=u32::from(u16::MAX))?;
            u16::try_from(port).map_err(|error| error.to_string())
        })
        .collect()
}

pub(super) fn string<'a>(value: &'a DeValue<'_>) -> Result<&'a str, String> {
    value
        .as_str()
        .ok_or_else(|| format!("is of type {}; write a string", value.type_str()))
}

pub(super) fn integer(value: &DeValue<'_>, range: RangeInclusive<u32>) -> Result<u32, String> {
    let Some(digits) = value.as_integer() else {
        return Err(format!(
            "is of type {}; write a whole number",
            value.type_str()
        ));
    };
    i128::from_str_radix(digits.as_str(), digits.radix())
        .ok()
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            format!(
                "is {digits}; write a number from {} to {}",
                range.start(),
                range.end()
            )
        })
}
