//! Times as people write them: `1h`, `2026-11-20T14:00`, RFC 3339.

use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp, Zoned};

/// A moment that may depend on the one it is asked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum When {
    /// So long ago.
    Ago(SignedDuration),
    /// By the clock on the wall.
    Local(DateTime),
    /// Whatever the zone.
    At(Timestamp),
}

impl When {
    /// The moment, where it is `now`. Of two moments that have the same time by the
    /// clock on the wall, the earlier; of none, as if the clock had gone on.
    pub fn resolve(self, now: &Zoned) -> Result<Timestamp, jiff::Error> {
        match self {
            Self::Ago(ago) => now.timestamp().checked_sub(ago),
            Self::Local(time) => Ok(zoned(time, now.time_zone().clone())?.timestamp()),
            Self::At(time) => Ok(time),
        }
    }
}

fn zoned(time: DateTime, zone: TimeZone) -> Result<Zoned, jiff::Error> {
    time.to_zoned(zone)
}

/// Reads a time.
pub fn parse(text: &str) -> Result<When, String> {
    if let Ok(ago) = duration(text) {
        return SignedDuration::try_from(ago)
            .map(When::Ago)
            .map_err(|error| error.to_string());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(When::At(time));
    }
    // It takes a date and a time with a zone as well, and drops the zone.
    let zoned = text.ends_with(['Z', 'z']) || text.contains(['+', '[']);
    match text.parse::<DateTime>() {
        Ok(time) if !zoned => Ok(When::Local(time)),
        _ => Err(
            "expected how long ago (90s, 15m, 1h, 2d), a local time (2026-11-20, 2026-11-20T14:00) or RFC 3339 (2026-11-20T14:00:00Z)"
                .to_owned(),
        ),
    }
}

/// Reads a duration such as `90s`, `15m`, `1h30m` or `7d`; a day has 24 hours.
pub fn duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a duration, such as 90s, 15m, 1h or 7d";
    let span: Span = text.parse().map_err(|_| EXPECTED)?;
    let duration = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| EXPECTED)?;
    Duration::try_from(duration).map_err(|_| EXPECTED.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> String {
        let now: Zoned = "2026-11-20T14:32:01.5[Europe/Berlin]".parse().unwrap();
        parse(text).unwrap().resolve(&now).unwrap().to_string()
    }

    #[test]
    fn durations_are_back_from_now() {
        assert_eq!(at("90s"), "2026-11-20T13:30:31.5Z");
        assert_eq!(at("15m"), "2026-11-20T13:17:01.5Z");
        assert_eq!(at("1h"), "2026-11-20T12:32:01.5Z");
        assert_eq!(at("1h30m"), "2026-11-20T12:02:01.5Z");
        assert_eq!(at("2d"), "2026-11-18T13:32:01.5Z");
        assert_eq!(at("1w"), "2026-11-13T13:32:01.5Z");
    }

    #[test]
    fn dates_and_times_are_local() {
        assert_eq!(at("2026-11-20"), "2026-11-19T23:00:00Z");
        assert_eq!(at("2026-11-20T14:00"), "2026-11-20T13:00:00Z");
        assert_eq!(at("2026-11-20 14:00:30"), "2026-11-20T13:00:30Z");
        // In the summer, two hours ahead; and the hour that comes twice.
        assert_eq!(at("2026-07-01"), "2026-06-30T22:00:00Z");
        assert_eq!(at("2026-10-25T02:30"), "2026-10-25T00:30:00Z");
    }

    #[test]
    fn rfc_3339_is_taken_as_it_is() {
        assert_eq!(at("2026-11-20T14:00:00Z"), "2026-11-20T14:00:00Z");
        assert_eq!(
            at("2026-11-20T14:00:00.25-05:00"),
            "2026-11-20T19:00:00.25Z"
        );
    }

    #[test]
    fn anything_else_is_refused_with_examples() {
        for text in [
            "",
            "h",
            "1",
            "-1h",
            "1h ago",
            "yesterday",
            "14:00",
            "2026-13-01",
            "2026-11-20T25:00",
            "1mo",
            "99999999999999999999d",
            "2026-11-20+01",
        ] {
            let message = parse(text).unwrap_err();
            assert!(
                message.contains("2026-11-20T14:00:00Z"),
                "{text}: {message}"
            );
        }
    }
}
