//! Small pictures as inline SVG: lines in the unit square, and bars.

use std::fmt::Write as _;

use super::{curves::CalibrationBin, tables::escape};

/// Colours by place: the model, then others.
pub(super) const COLOURS: [&str; 3] = ["#0b6e99", "#b3541e", "#777"];
const SIZE: f64 = 300.0;
const LEFT: f64 = 38.0;
const BOTTOM: f64 = 34.0;
const TOP: f64 = 8.0;
const RIGHT: f64 = 8.0;

/// A frame with axes from 0 to 1.
struct Frame {
    svg: String,
}

impl Frame {
    fn new(title: &str, x_label: &str, y_label: &str) -> Self {
        let mut svg = format!(
            "<svg viewBox=\"0 0 {SIZE} {SIZE}\" role=\"img\" aria-label=\"{0}\"><title>{0}</title>",
            escape(title)
        );
        for tick in [0.0, 0.25, 0.5, 0.75, 1.0] {
            let (x, y) = (place_x(tick), place_y(tick));
            _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{0:.1}\"/><line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{1:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{x:.1}\" y=\"{2:.1}\" text-anchor=\"middle\">{tick}</text><text x=\"{3:.1}\" y=\"{4:.1}\" text-anchor=\"end\">{tick}</text>",
                SIZE - BOTTOM,
                SIZE - RIGHT,
                SIZE - BOTTOM + 13.0,
                LEFT - 4.0,
                y + 3.5
            );
        }
        _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text transform=\"translate(10 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(LEFT, SIZE - RIGHT),
            SIZE - 5.0,
            escape(x_label),
            f64::midpoint(TOP, SIZE - BOTTOM),
            escape(y_label)
        );
        Self { svg }
    }

    fn line(&mut self, points: &[[f64; 2]], colour: &str, dashed: bool) {
        let path: Vec<String> = points.iter().map(|[x, y]| format!("{:.1},{:.1}", place_x(*x), place_y(*y))).collect();
        let dash = if dashed { " stroke-dasharray=\"4 4\"" } else { "" };
        _ = write!(
            self.svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
            path.join(" ")
        );
    }

    fn finish(mut self, legend: &[(String, &str)]) -> String {
        self.svg.push_str("</svg>");
        if !legend.is_empty() {
            self.svg.push_str("<p class=\"legend\">");
            for (name, colour) in legend {
                _ = write!(self.svg, "<span><i style=\"background:{colour}\"></i>{}</span>", escape(name));
            }
            self.svg.push_str("</p>");
        }
        self.svg
    }
}

fn place_x(x: f64) -> f64 {
    LEFT + x.clamp(0.0, 1.0) * (SIZE - LEFT - RIGHT)
}

fn place_y(y: f64) -> f64 {
    TOP + (1.0 - y.clamp(0.0, 1.0)) * (SIZE - TOP - BOTTOM)
}

/// Lines in the unit square, with a dashed line from `guide[0]` to `guide[1]`.
pub(super) fn lines(
    title: &str,
    [x_label, y_label]: [&str; 2],
    curves: &[(String, Vec<[f64; 2]>)],
    guide: Option<[[f64; 2]; 2]>,
) -> String {
    let mut frame = Frame::new(title, x_label, y_label);
    if let Some(guide) = guide {
        frame.line(&guide, COLOURS[2], true);
    }
    // The model is drawn last, on top.
    for (place, (_, points)) in curves.iter().enumerate().rev() {
        frame.line(points, COLOURS[place.min(COLOURS.len() - 1)], false);
    }
    let legend: Vec<(String, &str)> =
        curves.iter().enumerate().map(|(place, (name, _))| (name.clone(), COLOURS[place.min(2)])).collect();
    frame.finish(&legend)
}

/// Predicted against observed rates with their intervals.
pub(super) fn calibration(title: &str, bins: &[CalibrationBin]) -> String {
    let mut frame = Frame::new(title, "predicted", "observed");
    frame.line(&[[0.0, 0.0], [1.0, 1.0]], COLOURS[2], true);
    for bin in bins {
        let x = place_x(bin.predicted);
        _ = write!(
            frame.svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"1.5\"/><circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>",
            place_y(bin.interval[0]),
            place_y(bin.interval[1]),
            place_y(bin.observed),
            colour = COLOURS[0]
        );
    }
    frame.finish(&[("model, tenths of users, 95 % intervals".to_owned(), COLOURS[0])])
}

/// Horizontal bars; values may be negative. Each row: name, value, text at its end.
pub(super) fn bars(title: &str, rows: &[(String, f64, String)]) -> String {
    const ROW: f64 = 20.0;
    const WIDTH: f64 = 520.0;
    const NAMES: f64 = 230.0;
    const TEXT: f64 = 110.0;
    let largest = rows.iter().map(|(_, value, _)| value.abs()).fold(f64::MIN_POSITIVE, f64::max);
    let height = ROW * f64::from(u32::try_from(rows.len()).unwrap_or(u32::MAX)) + 4.0;
    let mut svg = format!(
        "<svg class=\"bars\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{0}\"><title>{0}</title>",
        escape(title)
    );
    for (place, (name, value, text)) in rows.iter().enumerate() {
        let y = ROW * f64::from(u32::try_from(place).unwrap_or(u32::MAX));
        let width = value.abs() / largest * (WIDTH - NAMES - TEXT);
        let colour = if *value < 0.0 { COLOURS[1] } else { COLOURS[0] };
        _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><rect x=\"{NAMES}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            NAMES - 6.0,
            y + 14.0,
            escape(&shortened(name)),
            y + 3.0,
            ROW - 6.0,
            NAMES + width + 5.0,
            y + 14.0,
            escape(text)
        );
    }
    svg.push_str("</svg>");
    svg
}

/// Days with activity on a line of half a year, oldest at the left; the right end is the cutoff.
pub(super) fn timeline(active_ages: &[u32]) -> String {
    const DAYS: u32 = 182;
    const STEP: f64 = 4.0;
    let width = f64::from(DAYS) * STEP;
    let mut svg = format!(
        "<svg class=\"timeline\" viewBox=\"0 0 {width} 34\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"days with activity in half a year\"><line class=\"grid\" x1=\"0\" y1=\"28\" x2=\"{width}\" y2=\"28\"/>"
    );
    for age in active_ages.iter().filter(|age| **age < DAYS) {
        _ = write!(
            svg,
            "<rect x=\"{:.1}\" y=\"4\" width=\"3\" height=\"24\" fill=\"{}\"/>",
            f64::from(DAYS - 1 - age) * STEP,
            COLOURS[0]
        );
    }
    svg.push_str("</svg>");
    svg
}

fn shortened(name: &str) -> String {
    const LETTERS: usize = 36;
    if name.chars().count() <= LETTERS {
        name.to_owned()
    } else {
        name.chars().take(LETTERS - 1).chain(['…']).collect()
    }
}
