//! The page.

use std::fmt::Write as _;

use super::{
    chart,
    curves::Curve,
    facts::{ExplainedUser, HeadFacts, ReportFacts},
    tables::{count, decimal, difference, escape, interval, money, percent, table},
};

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2226;--paper:#fff;--soft:#f3f5f6;--line:#d5dadd;--dim:#5a656c}\
@media(prefers-color-scheme:dark){:root{--ink:#e8ecee;--paper:#14191c;--soft:#1d2428;--line:#3a444a;--dim:#9aa6ad}}\
*{box-sizing:border-box}body{margin:0 auto;max-width:1120px;padding:24px 16px 64px;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}\
h1{font-size:1.6rem;line-height:1.25;margin:.2em 0}h2{margin:2.2em 0 .4em;font-size:1.25rem;border-top:1px solid var(--line);padding-top:1em}h3{font-size:1rem;margin:1.4em 0 .3em}\
p{max-width:72ch}.dim,caption,figcaption{color:var(--dim);font-size:.88rem}.lead{font-size:1.12rem}\
.grid-4{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(240px,1fr))}.grid-2{display:grid;gap:24px;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))}\
figure{margin:0}figcaption{margin:.2em 0}svg{width:100%;height:auto;display:block;max-width:440px}svg.bars{max-width:560px}svg.timeline{max-width:none;height:34px}\
svg text{font:10px system-ui,sans-serif;fill:var(--ink)}svg.bars text{font-size:11px}.grid{stroke:var(--line);stroke-width:1}\
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;margin:.2em 0;font-size:.85rem}.legend i{display:inline-block;width:12px;height:12px;margin-right:5px;vertical-align:-1px}\
.scroll{overflow-x:auto;margin:.6em 0}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9rem}caption{text-align:left;padding:0 0 6px}\
th,td{padding:5px 10px;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}th:first-child,td:first-child{text-align:left;white-space:normal;min-width:8em}th{font-weight:600}tr.own td,td b{font-weight:600}\
.card{background:var(--soft);border-radius:8px;padding:12px 16px;margin:12px 0}.card h3{margin:.1em 0}.numbers{display:flex;flex-wrap:wrap;gap:12px 36px;margin:1em 0}.numbers div{min-width:120px}.numbers b{display:block;font-size:1.5rem;line-height:1.2}";

/// The whole report as one self-contained page: no script, no font, no picture from outside.
pub fn page(facts: &ReportFacts) -> String {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>{0}</title><style>{STYLE}</style></head><body>",
        escape(&facts.title)
    );
    headline(&mut html, facts);
    for head in &facts.heads {
        head_part(&mut html, facts, head);
    }
    alerts_part(&mut html, facts);
    money_part(&mut html, facts);
    lists_part(&mut html, facts);
    inside_part(&mut html, facts);
    explained_part(&mut html, facts);
    _ = write!(
        html,
        "<h2>How this was measured</h2><p>The model was trained on events before {} only, as if that moment were today. It then named a probability for each of the {} users with \
         activity in the {} days before it. A user counts as gone when the {} days after it hold no activity, and as a buyer when the {} days after it hold a purchase. Thresholds and \
         calibration were chosen on earlier data. Intervals hold 95 % of 200 draws of users with replacement; shares carry Wilson intervals. Seed {}. \
         The same numbers are in <code>report.json</code>.</p></body></html>",
        moment(facts.cutoff_ms),
        count(facts.user_count as u64),
        facts.history_days,
        facts.churn_days,
        facts.purchase_days,
        facts.seed
    );
    html
}

fn moment(time_ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(time_ms)
        .map_or_else(|| time_ms.to_string(), |time| time.format("%-d %B %Y %H:%M UTC").to_string())
}

/// What a marketing lead takes away.
fn headline(html: &mut String, facts: &ReportFacts) {
    let churn = &facts.heads[0];
    let own = &churn.models[0].metrics;
    let confusion = churn.confusion;
    let left = confusion.true_positives + confusion.false_negatives;
    let named = confusion.true_positives + confusion.false_positives;
    _ = write!(
        html,
        "<p class=\"dim\">{}</p><h1>Of {} active customers, {} went silent for {} days. The model named {}: {} of them left, and they are {} of all who did.</h1>",
        escape(&facts.title),
        count(facts.user_count as u64),
        count(left as u64),
        facts.churn_days,
        count(named as u64),
        percent(own.precision),
        percent(own.recall)
    );
    let best = churn.models[1..].iter().find(|row| !row.is_member);
    let against = best.map_or_else(String::new, |row| {
        let verdict = row.lead.as_ref().map_or("", |lead| {
            if lead.low > 0.0 {
                "clearly ahead of"
            } else if lead.high < 0.0 {
                "clearly behind"
            } else {
                "not distinguishable from"
            }
        });
        format!(
            " It is {verdict} the best simple method here, {} ({}).",
            escape(&row.name),
            decimal(row.metrics.roc_auc)
        )
    });
    _ = write!(
        html,
        "<p class=\"lead\">Shown one who left and one who stayed, it gives the leaver the higher risk {} times in 100.{against} Its probabilities are off by {} on average.</p><div class=\"numbers\">",
        own.roc_auc.map_or_else(|| "–".to_owned(), |auc| format!("{:.0}", auc * 100.0)),
        percent(own.ece)
    );
    let mut number = |value: String, label: &str| _ = write!(html, "<div><b>{value}</b>{label}</div>");
    number(decimal(own.roc_auc), "churn ROC-AUC");
    number(decimal(facts.heads[1].models[0].metrics.roc_auc), "purchase ROC-AUC");
    for (list, label) in [("items", "items recall@20"), ("discoveries", "discoveries recall@20")] {
        if let Some(own) = facts.lists.get(list).and_then(|models| models.get("model")) {
            number(decimal(Some(own.recall_at_20)), label);
        }
    }
    html.push_str("</div>");
}

fn head_part(html: &mut String, facts: &ReportFacts, head: &HeadFacts) {
    let (title, days, positive) = match head.name {
        "churn" => ("Who leaves", facts.churn_days, "left"),
        _ => ("Who buys", facts.purchase_days, "bought"),
    };
    let rate = head.models[0].metrics.rate;
    _ = write!(html, "<h2>{title} within {days} days</h2><p>{} of all predicted users {positive}.</p>", percent(rate));
    let rows: Vec<Vec<String>> = head
        .models
        .iter()
        .map(|row| {
            let name = match row.name.as_str() {
                "model" => "<b>model</b>".to_owned(),
                member if row.is_member => format!("{}, a member of it", escape(member)),
                baseline => escape(baseline),
            };
            vec![
                name,
                decimal(row.metrics.roc_auc),
                interval(row.roc_auc_interval.as_ref()),
                difference(row.lead.as_ref()),
                decimal(row.metrics.pr_auc),
                decimal(Some(row.metrics.log_loss)),
                decimal(Some(row.metrics.ece)),
                percent(row.metrics.precision),
                percent(row.metrics.recall),
                decimal(Some(row.metrics.f1)),
            ]
        })
        .collect();
    html.push_str(&table(
        "The model beside its members and the baselines, the best first",
        &["", "ROC-AUC", "95 %", "model ahead by", "PR-AUC", "log-loss", "ECE", "precision", "recall", "F1"],
        &rows,
    ));
    pictures(html, head, rate);
    confusion_part(html, head, positive);
    segments_part(html, head);
}

/// ROC, precision and recall, calibration, gain.
fn pictures(html: &mut String, head: &HeadFacts, rate: f64) {
    let named =
        |curves: &[Curve]| curves.iter().map(|curve| (curve.name.clone(), curve.points.clone())).collect::<Vec<_>>();
    let gain: Vec<[f64; 2]> =
        std::iter::once([0.0, 0.0]).chain(head.gains.iter().map(|row| [row.share, row.gain])).collect();
    html.push_str("<div class=\"grid-4\">");
    let mut figure = |caption: &str, picture: String| {
        _ = write!(html, "<figure><figcaption>{caption}</figcaption>{picture}</figure>");
    };
    let diagonal = Some([[0.0, 0.0], [1.0, 1.0]]);
    figure(
        "ROC",
        chart::lines("ROC curve", ["false positive rate", "true positive rate"], &named(&head.roc), diagonal),
    );
    figure(
        "Precision and recall",
        chart::lines(
            "precision against recall",
            ["recall", "precision"],
            &named(&head.precision_recall),
            Some([[0.0, rate], [1.0, rate]]),
        ),
    );
    figure("Calibration", chart::calibration("calibration", &head.calibration));
    figure(
        "Gain",
        chart::lines("gain", ["share of users, highest first", "share found"], &[("model".to_owned(), gain)], diagonal),
    );
    html.push_str("</div>");
}

/// Lift by tenth, and right and wrong at the threshold.
fn confusion_part(html: &mut String, head: &HeadFacts, positive: &str) {
    html.push_str("<div class=\"grid-2\">");
    let lift: Vec<(String, f64, String)> = head
        .gains
        .iter()
        .enumerate()
        .map(|(place, row)| (format!("tenth {}", place + 1), row.lift, format!("{:.2}×", row.lift)))
        .collect();
    if !lift.is_empty() {
        _ = write!(
            html,
            "<figure><figcaption>Lift: rate in each tenth of users over the rate of all</figcaption>{}</figure>",
            chart::bars("lift", &lift)
        );
    }
    let c = head.confusion;
    html.push_str("<div>");
    html.push_str(&table(
        &format!("At the threshold {:.3}, chosen on earlier data", c.threshold),
        &["", positive, &format!("not {positive}")],
        &[
            vec!["named".to_owned(), count(c.true_positives as u64), count(c.false_positives as u64)],
            vec!["not named".to_owned(), count(c.false_negatives as u64), count(c.true_negatives as u64)],
        ],
    ));
    html.push_str("</div></div>");
}

fn segments_part(html: &mut String, head: &HeadFacts) {
    let rows: Vec<Vec<String>> = head
        .segments
        .iter()
        .map(|row| {
            vec![
                format!("{}: {}", row.by, escape(&row.name)),
                count(row.metrics.count as u64),
                percent(row.metrics.rate),
                decimal(row.metrics.roc_auc),
                interval(row.roc_auc_interval.as_ref()),
                percent(row.metrics.precision),
                percent(row.metrics.recall),
                decimal(Some(row.metrics.ece)),
            ]
        })
        .collect();
    if !rows.is_empty() {
        html.push_str(&table(
            "The model within groups of at least 30 users, at the common threshold",
            &["", "users", "rate", "ROC-AUC", "95 %", "precision", "recall", "ECE"],
            &rows,
        ));
    }
}

fn alerts_part(html: &mut String, facts: &ReportFacts) {
    _ = write!(
        html,
        "<h2>Alerts at other thresholds</h2><p>How many users would be named, how many of them rightly, and how long before their silence reached {} days.</p>",
        facts.churn_days
    );
    let rows: Vec<Vec<String>> = facts
        .alerts
        .iter()
        .map(|row| {
            let own = if row.chosen { " (chosen)" } else { "" };
            vec![
                format!("{:.3}{own}", row.threshold),
                count(row.user_count as u64),
                count(row.new_count as u64),
                percent(row.precision),
                format!("{} – {}", percent(row.precision_interval[0]), percent(row.precision_interval[1])),
                percent(row.recall),
                row.days_ahead.map_or_else(|| "–".to_owned(), |days| format!("{days:.0}")),
            ]
        })
        .collect();
    html.push_str(&table(
        "Median days ahead counts only alerts that were right",
        &["threshold", "users named", "new in the last week", "right", "95 %", "leavers named", "days ahead"],
        &rows,
    ));
}

fn money_part(html: &mut String, facts: &ReportFacts) {
    let total: u64 = facts.money.iter().map(|row| row.at_stake_minor).sum();
    if total == 0 {
        return;
    }
    let lost: u64 = facts.money.iter().map(|row| row.lost_minor).sum();
    _ = write!(
        html,
        "<h2>Money at stake</h2><p>What users are expected to spend in {} days if they stay: {} in all, {} of it with users who left. In units of the events' prices.</p>",
        facts.churn_days,
        money(total),
        money(lost)
    );
    let rows: Vec<Vec<String>> = facts
        .money
        .iter()
        .map(|row| vec![format!("tenth {}", row.tenth), money(row.at_stake_minor), money(row.lost_minor)])
        .collect();
    html.push_str(&table(
        "By tenth of users, riskiest first",
        &["", "expected if all stay", "with users who left"],
        &rows,
    ));
}

fn lists_part(html: &mut String, facts: &ReportFacts) {
    if facts.lists.values().all(std::collections::BTreeMap::is_empty) {
        return;
    }
    _ = write!(
        html,
        "<h2>What they buy next</h2><p>Lists of 20 items out of the whole catalogue, against what was bought in the {} days after the cutoff. Discoveries are measured on items new to the user.</p><div class=\"grid-2\">",
        facts.purchase_days
    );
    for (list, models) in &facts.lists {
        let mut sorted: Vec<_> = models.iter().collect();
        sorted.sort_by(|left, right| right.1.recall_at_20.total_cmp(&left.1.recall_at_20));
        let rows: Vec<Vec<String>> = sorted
            .into_iter()
            .map(|(name, row)| {
                let name = if name == "model" { "<b>model</b>".to_owned() } else { escape(&name.replace('_', " ")) };
                vec![name, decimal(Some(row.recall_at_20)), decimal(Some(row.ndcg_at_10)), percent(row.hit_at_20)]
            })
            .collect();
        html.push_str("<div>");
        html.push_str(&table(list, &["", "recall@20", "NDCG@10", "users with a hit"], &rows));
        html.push_str("</div>");
    }
    html.push_str("</div>");
}

fn inside_part(html: &mut String, facts: &ReportFacts) {
    const SHOWN: usize = 20;
    if facts.importance.is_empty() && facts.attention.is_empty() && facts.ablation.is_empty() {
        return;
    }
    html.push_str("<h2>What the model looks at</h2><div class=\"grid-2\">");
    if !facts.importance.is_empty() {
        let rows: Vec<(String, f64, String)> = facts
            .importance
            .iter()
            .take(SHOWN)
            .map(|row| (row.name.clone(), row.loss[0], format!("{:+.4}", row.loss[0])))
            .collect();
        _ = write!(
            html,
            "<figure><figcaption>Loss of churn ROC-AUC when a feature is shuffled among users</figcaption>{}</figure>",
            chart::bars("importance", &rows)
        );
    }
    if !facts.attention.is_empty() {
        let rows: Vec<Vec<String>> = facts
            .attention
            .iter()
            .map(|(name, [gone, stayed])| vec![escape(&name.replace('_', " ")), percent(*gone), percent(*stayed)])
            .collect();
        html.push_str("<div>");
        html.push_str(&table("The network's attention over its views, mean weight", &["", "left", "stayed"], &rows));
        html.push_str("</div>");
    }
    html.push_str("</div>");
    if !facts.ablation.is_empty() {
        let rows: Vec<Vec<String>> = facts
            .ablation
            .iter()
            .map(|row| vec![escape(&row.part), difference(row.change[0].as_ref()), difference(row.change[1].as_ref())])
            .collect();
        html.push_str(&table(
            "Change of ROC-AUC when a part is taken out; below zero it was worth having",
            &["without", "churn", "purchase"],
            &rows,
        ));
    }
}

fn explained_part(html: &mut String, facts: &ReportFacts) {
    if facts.explained.is_empty() {
        return;
    }
    html.push_str("<h2>Five users</h2><p class=\"dim\">Each line is half a year up to the cutoff; a mark is a day with activity.</p>");
    for user in &facts.explained {
        explained_user(html, user);
    }
}

fn explained_user(html: &mut String, user: &ExplainedUser) {
    let outcome = match user.labels {
        [true, _] => "left",
        [false, true] => "stayed and bought",
        [false, false] => "stayed, bought nothing soon",
    };
    _ = write!(
        html,
        "<div class=\"card\"><h3>User {} – {}</h3><p>Risk {}, chance of a purchase {}; {outcome}. Last active {:.0} days before the cutoff, {} bought lines so far, {} at stake.</p>{}",
        escape(&user.user_id),
        user.taken_as,
        percent(user.probabilities[0]),
        percent(user.probabilities[1]),
        user.silent_days,
        count(user.purchase_count),
        money(user.value_at_stake_minor),
        chart::timeline(&user.active_ages)
    );
    if !user.factors.is_empty() {
        let rows: Vec<(String, f64, String)> = user
            .factors
            .iter()
            .map(|factor| {
                let value = factor.value.map_or_else(|| "missing".to_owned(), |value| format!("at {value:.1}"));
                (factor.name.clone(), factor.effect, format!("{:+.2} {value}", factor.effect))
            })
            .collect();
        _ = write!(
            html,
            "<p class=\"dim\">What moved the risk (log-odds; blue raises it)</p>{}",
            chart::bars("factors", &rows)
        );
    }
    html.push_str("</div>");
}
