//! Event times: epoch milliseconds or RFC 3339.

use chrono::DateTime;

use super::DAY_MS;

/// Reads epoch milliseconds or an RFC 3339 time from text; `None` when it is neither.
pub(crate) fn parse_time_ms(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() <= 15 && !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit) {
        return Some(bytes.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')));
    }
    // The usual form without the cost of the general parser; everything else (offsets, leap seconds) is the parser's.
    usual_form(bytes).or_else(|| DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_millis()))
}

/// `2026-01-31T23:59:59Z`, with or without a fraction of a second.
fn usual_form(bytes: &[u8]) -> Option<i64> {
    if bytes.len() < 20
        || bytes[4] != b'-'
        || bytes[7] != b'-'
        || bytes[10] != b'T'
        || bytes[13] != b':'
        || bytes[16] != b':'
    {
        return None;
    }
    let year = digits(&bytes[0..4])?;
    let month = digits(&bytes[5..7])?;
    let day = digits(&bytes[8..10])?;
    let hour = digits(&bytes[11..13])?;
    let minute = digits(&bytes[14..16])?;
    let second = digits(&bytes[17..19])?;
    let millis = match &bytes[19..] {
        b"Z" => 0,
        [b'.', fraction @ .., b'Z'] if !fraction.is_empty() && fraction.len() <= 9 => {
            // Further digits are cut, not rounded, as the general parser does.
            let head = fraction.len().min(3);
            digits(fraction)?;
            digits(&fraction[..head])? * [100, 10, 1][head - 1]
        }
        _ => return None,
    };
    if !(1..=12).contains(&month)
        || day < 1
        || day > days_in_month(year, month)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let days = days_from_civil(year, month, day);
    Some(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + millis)
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// An instant in UTC as RFC 3339 with milliseconds: `2024-03-01T12:00:00.000Z`. Years outside 0–9999 are clamped.
pub fn format_time_ms(time_ms: i64) -> String {
    let time_ms = time_ms.clamp(MIN_MS, MAX_MS);
    let (year, month, day) = civil_from_days(time_ms.div_euclid(DAY_MS));
    let of_day = time_ms.rem_euclid(DAY_MS);
    let mut text = String::with_capacity(24);
    push_pair(&mut text, year / 100);
    push_pair(&mut text, year % 100);
    for (separator, value) in
        [("-", month), ("-", day), ("T", of_day / 3_600_000), (":", of_day / 60_000 % 60), (":", of_day / 1_000 % 60)]
    {
        text.push_str(separator);
        push_pair(&mut text, value);
    }
    let millis = of_day % 1_000;
    text.push_str([".0", ".1", ".2", ".3", ".4", ".5", ".6", ".7", ".8", ".9"][index(millis / 100)]);
    push_pair(&mut text, millis % 100);
    text.push('Z');
    text
}

/// The first and the last millisecond of the years 0–9999.
const MIN_MS: i64 = -62_167_219_200_000;
const MAX_MS: i64 = 253_402_300_799_999;

/// All numbers of two digits.
const PAIRS: &str = "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748\
                     4950515253545556575859606162636465666768697071727374757677787980818283848586878889909192939495969798\
                     99";

/// Appends a number below 100 with two digits.
fn push_pair(text: &mut String, value: i64) {
    let place = 2 * index(value);
    text.push_str(&PAIRS[place..place + 2]);
}

fn index(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// Year, month and day of a day number (Howard Hinnant's algorithm, 400-year eras beginning in March).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Option<i64>) {
        assert_eq!(parse_time_ms(text), expected, "{text}");
    }

    #[test]
    fn reads_both_forms() {
        check("1541548939000", Some(1_541_548_939_000));
        check("0", Some(0));
        check("2018-11-07T00:02:19Z", Some(1_541_548_939_000));
        check("2018-11-07T00:02:19.5Z", Some(1_541_548_939_500));
        check("2018-11-07T00:02:19.123456789Z", Some(1_541_548_939_123));
        check("2018-11-07T01:02:19+01:00", Some(1_541_548_939_000));
        check("2024-02-29T00:00:00Z", Some(1_709_164_800_000));
        check("1969-12-31T23:59:59.999Z", Some(-1));
    }

    #[test]
    fn refuses_the_rest() {
        for text in [
            "",
            "yesterday",
            "2023-02-29T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-01",
            "-5",
            "1e12",
            "2024-01-01T24:00:00Z",
        ] {
            check(text, None);
        }
        check("99999999999999999999", None);
        check("2018-11-07T00:02:19.Z", None);
    }

    proptest::proptest! {
        #[test]
        fn the_short_way_agrees_with_the_general_parser(ms in -62_135_596_800_000_i64..253_402_300_799_999) {
            let text = DateTime::from_timestamp_millis(ms).unwrap().format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
            proptest::prop_assert_eq!(usual_form(text.as_bytes()), Some(ms));
        }
    }

    proptest! {
        #[test]
        fn times_read_back(time_ms in MIN_MS..=MAX_MS) {
            let text = format_time_ms(time_ms);
            let parsed = DateTime::parse_from_rfc3339(&text).map(|time| time.timestamp_millis());
            prop_assert_eq!(parsed, Ok(time_ms), "{}", text);
        }
    }
}
