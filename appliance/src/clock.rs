//! Two clocks: durations come from one that never jumps, stored times are UTC with milliseconds.

use std::time::{Duration, Instant};

use crate::world;

/// Now as ISO 8601 in UTC with milliseconds, e.g. `2026-01-31T12:00:00.123Z`.
pub fn utc_now() -> String {
    utc(now())
}

/// Milliseconds since `start`.
pub fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

fn now() -> jiff::Timestamp {
    world::ask(|world| world.utc()).unwrap_or_else(jiff::Timestamp::now)
}

fn utc(at: jiff::Timestamp) -> String {
    format!("{at:.3}")
}

/// The start of today in the local time zone, as UTC.
pub fn today_utc() -> String {
    let now = jiff::ZonedDateTime::now();
    utc(now.start_of_day().unwrap_or(now).timestamp())
}

/// A stored time as local wall time for people, e.g. `2026-01-31 13:00:00`; unreadable text is returned as it is.
pub fn local(stored: &str) -> String {
    match stored.parse::<jiff::Timestamp>() {
        Ok(at) => at.to_zoned_datetime(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => stored.to_owned(),
    }
}

/// Time since boot including suspend; never jumps with the wall clock.
pub fn boot() -> Duration {
    world::ask(|world| world.boot()).unwrap_or_else(since_boot)
}

fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utc_has_milliseconds_and_z_and_sorts() {
        let now = utc_now();
        assert_eq!(now.len(), "2026-01-31T12:00:00.123Z".len());
        assert!(now.ends_with('Z'));
        let later = utc(self::now() + jiff::SignedDuration::from_secs(2));
        assert!(later > now);
    }

    #[test]
    fn local_keeps_text_that_is_no_time() {
        assert_eq!(local("never"), "never");
        assert_eq!(local(&utc_now()).len(), "2026-01-31 13:00:00".len());
    }
}
