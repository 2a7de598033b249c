//! Times and bytes as text.

use crate::event::DAY_MS;

/// An instant in UTC as RFC 3339 with milliseconds: `2024-03-01T12:00:00.000Z`. Years outside 0–9999 are clamped.
pub fn format_time_ms(time_ms: i64) -> String {
    let time_ms = time_ms.clamp(MIN_MS, MAX_MS);
    let (year, month, day) = civil_from_days(time_ms.div_euclid(DAY_MS));
    let of_day = time_ms.rem_euclid(DAY_MS);
    let mut text = String::with_capacity(24);
    push_digits(&mut text, year, 4);
    text.push('-');
    push_digits(&mut text, month, 2);
    text.push('-');
    push_digits(&mut text, day, 2);
    text.push('T');
    push_digits(&mut text, of_day / 3_600_000, 2);
    text.push(':');
    push_digits(&mut text, of_day / 60_000 % 60, 2);
    text.push(':');
    push_digits(&mut text, of_day / 1_000 % 60, 2);
    text.push('.');
    push_digits(&mut text, of_day % 1_000, 3);
    text.push('Z');
    text
}

/// The first and the last millisecond of the years 0–9999.
const MIN_MS: i64 = -62_167_219_200_000;
const MAX_MS: i64 = 253_402_300_799_999;

/// The date of an instant in UTC: `2024-03-01`.
pub(super) fn format_date(time_ms: i64) -> String {
    let mut text = format_time_ms(time_ms);
    text.truncate(10);
    text
}

fn push_digits(text: &mut String, value: i64, width: u32) {
    for place in (0..width).rev() {
        let digit = u8::try_from(value / 10_i64.pow(place) % 10).unwrap_or(0);
        text.push(char::from(b'0' + digit));
    }
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

/// Bytes in base64 (RFC 4648, padded).
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |place: usize| u32::from(chunk.get(place).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            if place <= chunk.len() {
                let index = usize::try_from(word >> (18 - 6 * place) & 63).unwrap_or(0);
                text.push(char::from(ALPHABET[index]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn base64_matches_the_rfc() {
        for (plain, expected) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), expected);
        }
        assert_eq!(base64(&[0xFF, 0xFE, 0xFD]), "//79");
    }

    proptest! {
        #[test]
        fn times_read_back(time_ms in MIN_MS..=MAX_MS) {
            let text = format_time_ms(time_ms);
            let parsed = chrono::DateTime::parse_from_rfc3339(&text).map(|time| time.timestamp_millis());
            prop_assert_eq!(parsed, Ok(time_ms), "{}", text);
        }
    }
}
