//! Durations as the Gateway API writes them (GEP-2257): `1h30m`, `500ms`; at most four parts of at most five digits.

use std::time::Duration;

use super::fault::Fault;

/// Parses a duration.
pub(crate) fn parse(field: &str, text: &str) -> Result<Duration, Fault> {
    read(text).ok_or_else(|| {
        Fault::unsupported(format!(
            "{field}: {text:?} is not a duration; write for example 10s, 500ms or 1h30m"
        ))
    })
}

/// Parses an optional limit; `0s` means that there is none (GEP-1742).
pub(crate) fn parse_limit(field: &str, text: Option<&str>) -> Result<Option<Duration>, Fault> {
    let limit = text.map(|text| parse(field, text)).transpose()?;
    Ok(limit.filter(|limit| !limit.is_zero()))
}

fn read(mut text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    for part in 0.. {
        if text.is_empty() {
            return (part > 0).then_some(total);
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        if part == 4 || !(1..=5).contains(&digits) {
            return None;
        }
        let (number, rest) = text.split_at(digits);
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, rest) = rest.split_at(letters);
        let milliseconds = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        total += Duration::from_millis(number.parse::<u64>().ok()? * milliseconds);
        text = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn durations_are_read_as_gep_2257_defines_them() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("10s", 10_000),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("1h1m1s1ms", 3_661_001),
            ("1s1s", 2_000),
            ("99999h", 99_999 * 3_600_000),
        ] {
            assert_eq!(read(text).unwrap().as_millis(), milliseconds, "{text}");
        }
    }

    #[test]
    fn anything_else_is_no_duration() {
        for text in ["", "s", "10", "1.5s", "-1s", "100000s", "1d", "1us", "1s 1s", "1s1s1s1s1s", "1S", " 1s"]
        {
            assert!(read(text).is_none(), "{text:?}");
        }
    }
}
