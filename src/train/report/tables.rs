//! Tables and numbers of the page.

use std::fmt::Write as _;

use crate::train::metrics::Interval;

/// `text` safe inside HTML and inside an attribute.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(letter),
        }
    }
    safe
}

/// A table that scrolls by itself when the page is narrow. Cells are HTML; the first column is text, others numbers.
pub(super) fn table(caption: &str, header: &[&str], rows: &[Vec<String>]) -> String {
    let mut html = format!("<div class=\"scroll\"><table><caption>{}</caption><thead><tr>", escape(caption));
    for cell in header {
        _ = write!(html, "<th scope=\"col\">{}</th>", escape(cell));
    }
    html.push_str("</tr></thead><tbody>");
    for row in rows {
        html.push_str("<tr>");
        for cell in row {
            _ = write!(html, "<td>{cell}</td>");
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>");
    html
}

/// Four decimals, or a dash.
pub(super) fn decimal(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"))
}

/// `12.3 %`, kept on one line.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1}\u{a0}%", share * 100.0)
}

/// `.8512 – .8731`.
pub(super) fn interval(interval: Option<&Interval>) -> String {
    interval.map_or_else(|| "–".to_owned(), |found| format!("{:.4} – {:.4}", found.low, found.high))
}

/// A difference with its sign and interval.
pub(super) fn difference(interval: Option<&Interval>) -> String {
    interval.map_or_else(
        || "–".to_owned(),
        |found| format!("{:+.4} ({:+.4} – {:+.4})", found.median, found.low, found.high),
    )
}

/// Whole numbers with thousands apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Minor units as whole major units.
pub(super) fn money(minor: u64) -> String {
    count((minor + 50) / 100)
}
