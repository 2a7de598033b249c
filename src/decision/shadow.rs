//! What a challenger says beside the champion, as a record of its own topic (`schemas/shadow_score.schema.json`).

use super::{
    Message, Subject, UserScore,
    json::{Json, hexadecimal},
    message::{Kind, cloud_event, id_of, score_id},
};
use crate::{
    event::format_time_ms,
    score::{RankedItem, Scored},
};

/// The record of topic `shadow-scores`: key = user; what `challenger` says where `score` was decided by `champion`. It is no
/// score: it has other fields, and nothing reads it back.
pub fn shadow_message(
    subject: Subject<'_>,
    score: &UserScore,
    champion: &Scored,
    challenger: &Scored,
    list_length: usize,
) -> Message {
    let what = format!("shadow\0{}\0", challenger.model.version);
    let id = hexadecimal(&id_of(what.as_bytes(), subject.user, &score.positions, score.as_of_ms).to_be_bytes());
    let scored_at = format_time_ms(score.as_of_ms);
    let mut json = Json::with_capacity(640);
    json.plain("{\"shadow_id\":", &id);
    json.text(",\"user_id\":", subject.user.as_str());
    json.plain(",\"score_id\":", &score_id(subject.user, &score.positions, score.as_of_ms));
    json.plain(",\"event_time\":", &format_time_ms(score.event_ms));
    json.plain(",\"scored_at\":", &scored_at);
    for (start, scored) in
        [(",\"challenger\":{\"model_version\":", challenger), (",\"champion\":{\"model_version\":", champion)]
    {
        json.text(start, &scored.model.version);
        json.number(",\"churn_probability\":", scored.churn_probability.get());
        json.number(",\"churn_days\":", scored.model.churn_days);
        json.number(",\"purchase_probability\":", scored.purchase_probability.get());
        json.number(",\"purchase_days\":", scored.model.purchase_days);
        json.raw("}");
    }
    let shared = |of: fn(&Scored) -> &[RankedItem]| shared_ratio(of(champion), of(challenger), list_length);
    json.number(",\"shared_items_ratio\":", shared(|scored| &scored.items));
    json.number(",\"shared_discoveries_ratio\":", shared(|scored| &scored.discoveries));
    json.raw("}");
    Message { payload: json.into_bytes(), headers: cloud_event(id, Kind::ShadowScore, subject.partition, scored_at) }
}

/// Of the first places of one list, the share that the first places of the other hold too; `None` for an empty list.
#[expect(clippy::cast_precision_loss, reason = "lists of at most a hundred")]
fn shared_ratio(ours: &[RankedItem], theirs: &[RankedItem], list_length: usize) -> Option<f32> {
    let [ours, theirs] = [ours, theirs].map(|list| &list[..list.len().min(list_length)]);
    let shared = ours.iter().filter(|place| theirs.iter().any(|other| other.item == place.item)).count();
    (!ours.is_empty()).then(|| shared as f32 / ours.len() as f32)
}
