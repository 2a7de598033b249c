//! The trials as one self-contained page: loss over trials, and loss against each parameter.

use std::fmt::Write as _;

use super::{Method, Parameter, Trial};

const WIDTH: f64 = 340.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 58.0;
const BOTTOM: f64 = 34.0;
const EDGE: f64 = 10.0;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2226;--paper:#fff;--line:#d5dadd}\
@media(prefers-color-scheme:dark){:root{--ink:#e8ecee;--paper:#14191c;--line:#3a444a}}\
body{margin:0 auto;max-width:1120px;padding:24px 16px;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}\
h1{font-size:1.4rem}main{display:grid;gap:20px;grid-template-columns:repeat(auto-fit,minmax(min(100%,320px),1fr))}\
svg{width:100%;height:auto}svg text{font:10px system-ui,sans-serif;fill:var(--ink)}.grid{stroke:var(--line)}\
.full{fill:#0b6e99}.part{fill:none;stroke:#777}.shipped{fill:#b3541e}.best{fill:none;stroke:#0b6e99;stroke-width:2}";

/// The page. Trials measured on all of `folds` are filled, those given up are rings, the shipped settings have a colour of
/// their own.
pub fn plot(method: Method, parameters: &[Parameter], trials: &[Trial], folds: usize) -> String {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>Tuning by {0}</title><style>{STYLE}</style></head><body>\
         <h1>{1} trials by {0}</h1><p>Loss: log-loss of churn and purchase against that of the base rate, mean of both and of the folds. Filled: measured on all {2} folds. Rings: given up earlier. Brown: the shipped settings.</p><main>",
        method.name(),
        trials.len(),
        folds
    );
    let range = losses(trials);
    let last = f64::from(u32::try_from(trials.len().saturating_sub(1)).unwrap_or(u32::MAX)).max(1.0);
    let numbers: Vec<f64> =
        trials.iter().map(|trial| f64::from(u32::try_from(trial.number).unwrap_or(u32::MAX)) / last).collect();
    html.push_str(&picture("trial", &["0".to_owned(), format!("{last:.0}")], &numbers, trials, folds, range, true));
    for (place, parameter) in parameters.iter().enumerate() {
        let places: Vec<f64> = trials.iter().map(|trial| trial.point[place]).collect();
        let ends = [0.0, 1.0].map(|end| shown(parameter.value(end)));
        let name =
            if parameter.is_logarithmic { format!("{} (log)", parameter.name) } else { parameter.name.to_owned() };
        html.push_str(&picture(&name, &ends, &places, trials, folds, range, false));
    }
    html.push_str("</main></body></html>");
    html
}

/// From the least loss to the middle of the rest and as far again: a few very poor trials must not flatten all others.
fn losses(trials: &[Trial]) -> [f64; 2] {
    let mut sorted: Vec<f64> = trials.iter().map(Trial::loss).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let (Some(least), Some(middle)) = (sorted.first(), sorted.get(sorted.len() / 2)) else { return [0.0, 1.0] };
    let most = sorted[sorted.len() - 1].min(middle + 2.0 * (middle - least));
    [*least, if most > *least { most } else { least + 1e-6 }]
}

fn picture(
    name: &str,
    ends: &[String; 2],
    places: &[f64],
    trials: &[Trial],
    folds: usize,
    [least, most]: [f64; 2],
    with_best: bool,
) -> String {
    let x = |place: f64| LEFT + place * (WIDTH - LEFT - EDGE);
    let y = |loss: f64| EDGE + ((most - loss) / (most - least)).clamp(0.0, 1.0) * (HEIGHT - BOTTOM - EDGE);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"loss against {name}\"><title>loss against {name}</title>"
    );
    for tick in [0.0, 0.5, 1.0] {
        let loss = least + tick * (most - least);
        _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\"/><text x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"end\">{loss:.5}</text>",
            WIDTH - EDGE,
            y(loss),
            LEFT - 4.0,
            y(loss) + 3.5
        );
    }
    let bottom = HEIGHT - BOTTOM + 13.0;
    _ = write!(
        svg,
        "<text x=\"{LEFT}\" y=\"{bottom:.1}\">{}</text><text x=\"{:.1}\" y=\"{bottom:.1}\" text-anchor=\"end\">{}</text><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
        ends[0],
        WIDTH - EDGE,
        ends[1],
        f64::midpoint(LEFT, WIDTH - EDGE),
        HEIGHT - 6.0
    );
    if with_best {
        let (mut best, mut path) = (f64::MAX, Vec::new());
        for (trial, place) in trials.iter().zip(places) {
            if trial.losses.len() == folds {
                best = best.min(trial.loss());
            }
            if best < f64::MAX {
                path.push(format!("{:.1},{:.1}", x(*place), y(best)));
            }
        }
        _ = write!(svg, "<polyline class=\"best\" points=\"{}\"/>", path.join(" "));
    }
    for (trial, place) in trials.iter().zip(places) {
        let class = match trial.number {
            0 => "shipped",
            _ if trial.losses.len() == folds => "full",
            _ => "part",
        };
        let radius = if class == "part" { 2.5 } else { 4.0 };
        _ = write!(
            svg,
            "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\"><title>trial {}: {:.5} on {} folds</title></circle>",
            x(*place),
            y(trial.loss()),
            trial.number,
            trial.loss(),
            trial.losses.len()
        );
    }
    svg.push_str("</svg>");
    svg
}

fn shown(value: f64) -> String {
    if value.fract().abs() < 1e-9 { format!("{value:.0}") } else { format!("{value}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tune::{PARAMETERS, default_point};

    #[test]
    fn every_trial_is_in_every_picture_and_nothing_comes_from_outside() {
        let trial = |number: usize, losses: &[f64]| Trial { number, point: default_point(), losses: losses.to_vec() };
        let trials = [trial(0, &[0.5, 0.52]), trial(1, &[0.9]), trial(2, &[0.48, 0.5])];
        let page = plot(Method::Tpe, &PARAMETERS, &trials, 2);
        assert_eq!(page.matches("<circle").count(), 3 * (PARAMETERS.len() + 1));
        assert_eq!(page.matches("class=\"shipped\"").count(), PARAMETERS.len() + 1);
        assert!(!page.contains("http") && !page.contains("NaN"));
        assert!(plot(Method::Grid, &PARAMETERS, &[], 2).ends_with("</html>"));
    }
}
