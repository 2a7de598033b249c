//! From event files to circles on disk.

use std::path::Path;

use super::{CircleOptions, Circles, Judged, find, judge};
use crate::{
    event::{NameHash, NameKind},
    train::{
        evaluate::{EvaluateError, EvaluateOptions, nobody, read},
        history::History,
    },
};

/// Circles, interests and, where the file goes on past the moment, what they are worth.
#[derive(Debug)]
pub struct FoundCircles {
    /// As found before the moment.
    pub circles: Circles,
    /// By what happened after it.
    pub judged: Option<Judged>,
    user_ids: Vec<String>,
    item_ids: Vec<String>,
}

/// Finds circles at `options.cutoff_ms`.
pub fn find_circles(
    options: &EvaluateOptions,
    circle_options: &CircleOptions,
    report: &mut dyn FnMut(&str),
) -> Result<FoundCircles, EvaluateError> {
    let (history, outcomes, catalogue, survey) = read(options, report)?;
    if history.corpus.row_count() == 0 {
        return Err(nobody(options, &survey));
    }
    report("finding circles");
    let circles = find(&history, options.cutoff_ms, &catalogue, circle_options)?;
    let goes_on = survey.range_ms.is_some_and(|(_, last_ms)| last_ms >= options.cutoff_ms);
    let judged = if goes_on {
        report("judging them");
        let horizons = options.horizons;
        Some(judge(&history, options.cutoff_ms, horizons, &circles, &outcomes, options.seed)?)
    } else {
        None
    };
    let text = |item: &NameHash| catalogue.names.get(&(NameKind::Item, *item)).map(|entry| entry.text.clone());
    Ok(FoundCircles {
        user_ids: circles.users.iter().map(|user| history.users()[*user].as_str().to_owned()).collect(),
        item_ids: circles.items.iter().map(|item| text(item).unwrap_or_default()).collect(),
        circles,
        judged,
    })
}

impl FoundCircles {
    /// Writes `circles.csv`, `interests.csv` and `circles.json` into `out`; those in no group have an empty second field.
    pub fn write(&self, out: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(out)?;
        let table = |name: &str, header: [&str; 2], ids: &[String], groups: &[Option<u32>]| {
            let mut writer = csv::Writer::from_path(out.join(name))?;
            writer.write_record(header)?;
            for (id, group) in ids.iter().zip(groups) {
                writer.write_record([id.as_str(), &group.map_or_else(String::new, |group| group.to_string())])?;
            }
            writer.flush()
        };
        table("circles.csv", ["user_id", "circle"], &self.user_ids, &self.circles.circle_of)?;
        table("interests.csv", ["item_id", "interest"], &self.item_ids, &self.circles.interest_of)?;
        let json = serde_json::json!({
            "circles": self.circles.circles,
            "interests": self.circles.interests,
            "circle_modularity": self.circles.circle_modularity,
            "interest_modularity": self.circles.interest_modularity,
            "judged": self.judged,
        });
        std::fs::write(out.join("circles.json"), serde_json::to_vec_pretty(&json)?)
    }
}
