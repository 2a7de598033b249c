//! Alerts posted to a receiver that fails, hangs and comes back, by a daemon that is killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio_util::sync::CancellationToken;
use undercurrent::{
    clock::{Clock, ManualClock, SystemClock},
    event::{Offset, PartitionId},
    stream::{CommittedOutput, LogError, OutputReader},
    webhook::{Parked, Poster, Retries, Signer, Webhook, WebhookParts},
};

use crate::{
    audit::events,
    process::Place,
    receiver::{Answer, Authority, Received, Receiver},
};

pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Every request is signed, with the time of its attempt; those of one id are alike but for that.
pub(crate) fn check_requests(requests: &[Received]) {
    let signer = Signer::new(SECRET).unwrap();
    let now_s = SystemClock.now_ms() / 1_000;
    let mut bodies: BTreeMap<&str, &[u8]> = BTreeMap::new();
    for request in requests {
        assert_eq!(request.signature, signer.sign(&request.id, request.timestamp_s, &request.body));
        assert!((now_s - 3_600..=now_s + 1).contains(&request.timestamp_s), "{request:?}");
        assert_eq!(request.alert()["alert_id"], *request.id);
        assert_eq!(*bodies.entry(&request.id).or_insert(&request.body), request.body, "the same body at every attempt");
    }
}

/// What the receiver took, repetitions aside, is `alerts` exactly, each user's in the order of their numbers.
pub(crate) fn check_taken(taken: &[Received], alerts: &[Value]) {
    let expected: BTreeMap<&str, &Value> =
        alerts.iter().map(|alert| (alert["alert_id"].as_str().unwrap(), alert)).collect();
    let mut seen = BTreeSet::new();
    let mut sequences: BTreeMap<String, u64> = BTreeMap::new();
    for request in taken.iter().filter(|request| seen.insert(request.id.clone())) {
        let alert = request.alert();
        assert_eq!(Some(&&alert), expected.get(request.id.as_str()), "what is posted was committed");
        let before = sequences.entry(alert["user_id"].as_str().unwrap().to_owned()).or_insert(0);
        *before += 1;
        assert_eq!(alert["sequence"], *before, "in order, and without a gap");
    }
    assert_eq!(seen.len(), expected.len(), "every alert arrives");
}

#[test]
fn alerts_reach_a_receiver_that_fails_and_hangs_signed_in_order_and_over_a_kill() {
    // One in four ids: an error, then silence, then it is taken.
    let receiver = Receiver::start(|id, attempt| match (u8::from_str_radix(&id[..1], 16).unwrap() % 4, attempt) {
        (0, 1) => Answer::Status(500),
        (0, 2) => Answer::Hang,
        _ => Answer::Status(200),
    });
    let place = Place::new(&[
        ("scoring.scorer", &"recency"),
        ("snapshot.interval_s", &1),
        // History: event time moves with the events, and alerts of it are told.
        ("stream.live_grace_ms", &315_576_000_000_i64),
        ("decision.max_alert_age_days", &36_500),
        ("webhook.url", &receiver.url),
        ("webhook.secret_file", &"secret"),
        ("webhook.timeout_ms", &300),
        ("webhook.first_backoff_ms", &10),
        ("webhook.max_backoff_ms", &50),
    ]);
    std::fs::write(place.path().join("secret"), format!("{SECRET}\n")).unwrap();
    let mut daemon = place.start();
    daemon.wait_until(|daemon| daemon.get("/livez").is_some());
    let mut accepted = daemon.post_events(&events(0..3_000));
    daemon.wait_until(|_| receiver.taken().len() >= 5);
    daemon.kill();
    let mut daemon = place.start();
    daemon.wait_until(|daemon| daemon.get("/livez").is_some());
    accepted += daemon.post_events(&events(3_000..6_000));
    daemon.wait_until(|daemon| daemon.committed() == Some(accepted));
    // The alerts of users who have left come with the clock's next look at them.
    let count = |daemon: &crate::process::Daemon| daemon.metric("undercurrent_webhook_delivered_alerts_total");
    let mut quiet = (0.0, 0);
    daemon.wait_until(|daemon| {
        let now = count(daemon);
        quiet = (now, if now > quiet.0 { 0 } else { quiet.1 + 1 });
        quiet.1 > 50
    });
    assert!(daemon.metric("undercurrent_webhook_failed_attempts_total") > 0.0);
    assert!(daemon.stop().success());

    let alerts = place.print(&["tail", "--topic", "churn-alerts", "--raw"]);
    let alerts: Vec<Value> = alerts.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(alerts.len() >= 20, "{} alerts prove little", alerts.len());
    let received = receiver.received();
    check_requests(&received);
    check_taken(&receiver.taken(), &alerts);
    for failing in [Answer::Status(500), Answer::Hang] {
        assert!(received.iter().any(|request| request.answer == failing), "no request was answered with {failing:?}");
    }
    let log = std::fs::read_to_string(place.path().join("daemon.log")).unwrap();
    assert!(!log.contains("of-the-receiver") && !log.contains(SECRET), "no secret in the log");
}

/// A log of made-up alerts: two users in each of two partitions, and how far the reader has stored.
#[derive(Clone, Default)]
struct Alerts {
    stored: Arc<Mutex<BTreeMap<PartitionId, Offset>>>,
    next: BTreeMap<PartitionId, Offset>,
}

impl Alerts {
    const COUNT: i64 = 40;

    fn of(partition: PartitionId, offset: i64) -> CommittedOutput {
        let user = format!("u{}-{}", partition, offset % 2);
        let alert = serde_json::json!({
            "alert_id": format!("{partition}-{offset}"), "user_id": user, "transition": "entered",
            "raised_at": "2024-01-01T00:00:00.000Z", "sequence": offset / 2 + 1,
        });
        let payload = (offset != 7).then(|| alert.to_string().into_bytes());
        CommittedOutput { partition, offset: Offset(offset), payload }
    }
}

impl OutputReader for Alerts {
    fn follow_blocking(&mut self, partitions: &BTreeSet<PartitionId>) -> Result<(), LogError> {
        self.next.retain(|partition, _| partitions.contains(partition));
        let stored = self.stored.lock().unwrap();
        for partition in partitions {
            let position = stored.get(partition).copied().unwrap_or_default();
            self.next.entry(*partition).or_insert(position);
        }
        Ok(())
    }

    fn read_blocking(&mut self, wanted: &BTreeSet<PartitionId>) -> Result<Vec<CommittedOutput>, LogError> {
        let mut records = Vec::new();
        for (partition, next) in self.next.iter_mut().filter(|(partition, _)| wanted.contains(partition)) {
            for offset in next.0..(next.0 + 15).min(Self::COUNT) {
                records.push(Self::of(*partition, offset));
                *next = Offset(offset + 1);
            }
        }
        Ok(records)
    }

    fn store_blocking(&mut self, partition: PartitionId, next: Offset) -> Result<(), LogError> {
        let before = self.stored.lock().unwrap().insert(partition, next);
        assert!(before < Some(next), "one after the other: {before:?}, then {next}");
        Ok(())
    }

    fn forget(&mut self) {
        self.next.clear();
    }
}

#[tokio::test]
async fn an_alert_nobody_takes_is_parked_and_the_others_go_on() {
    let receiver = Receiver::start(|id, _| Answer::Status(if id == "0-10" { 410 } else { 200 }));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("made/parked.jsonl");
    let alerts = Alerts::default();
    let webhook = Webhook::new(WebhookParts {
        reader: Box::new(alerts.clone()),
        owned: Arc::new(|| BTreeSet::from([PartitionId(0), PartitionId(1)])),
        poster: Poster::new(receiver.url.parse().unwrap(), Duration::from_secs(10), None).unwrap(),
        signer: Signer::new(SECRET).unwrap(),
        retries: Retries { max_attempts: 3, first_backoff_ms: 2, max_backoff_ms: 4 },
        parked: Parked::at(&file, 1 << 20),
        clock: Arc::new(ManualClock::at(1_700_000_000_000)),
    });
    let stop = CancellationToken::new();
    let watch = async {
        let done = |stored: &BTreeMap<PartitionId, Offset>| {
            stored.len() == 2 && stored.values().all(|next| next.0 == Alerts::COUNT)
        };
        for _ in 0..6_000 {
            if done(&alerts.stored.lock().unwrap()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.cancel();
    };
    tokio::join!(webhook.run(stop.clone()), watch);

    let taken: Vec<String> = receiver.taken().into_iter().map(|request| request.id).collect();
    for partition in [0, 1] {
        let found: Vec<&str> =
            taken.iter().map(String::as_str).filter(|id| id.starts_with(&format!("{partition}-"))).collect();
        let expected: Vec<String> = (0..Alerts::COUNT)
            .filter(|offset| *offset != 7 && (partition, *offset) != (0, 10))
            .map(|offset| format!("{partition}-{offset}"))
            .collect();
        assert_eq!(found, expected, "each once, in order");
    }
    assert_eq!(receiver.received().iter().filter(|request| request.id == "0-10").count(), 3);
    let parked: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!((parked["webhook_id"].as_str(), parked["attempts"].as_i64()), (Some("0-10"), Some(3)));
    assert_eq!(parked["body"]["data"]["alert_id"], "0-10");
    let reason = parked["reason"].as_str().unwrap();
    assert!(reason.contains("410") && !reason.contains("of-the-receiver"), "{reason}");
}

/// What could not be sent is listed, sent again with the same id and body once the receiver takes it, and then no longer parked.
#[test]
fn parked_alerts_are_sent_again_with_the_same_id() {
    let refused = Arc::new(Mutex::new(true));
    let rule = Arc::clone(&refused);
    let receiver = Receiver::start(move |_, _| Answer::Status(if *rule.lock().unwrap() { 503 } else { 200 }));
    let place = Place::new(&[
        ("scoring.scorer", &"recency"),
        ("stream.live_grace_ms", &315_576_000_000_i64),
        ("decision.max_alert_age_days", &36_500),
        ("webhook.url", &receiver.url),
        ("webhook.secret_file", &"secret"),
        ("webhook.max_attempts", &1),
    ]);
    std::fs::write(place.path().join("secret"), format!("{SECRET}\n")).unwrap();
    let mut daemon = place.start();
    daemon.wait_until(|daemon| daemon.get("/livez").is_some());
    daemon.post_events(&events(0..3_000));
    daemon.wait_until(|daemon| daemon.metric("undercurrent_webhook_parked_alerts_total") >= 5.0);
    assert!(daemon.stop().success());

    let parked = place.print(&["webhook", "list"]);
    let ids: Vec<&str> = parked.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert!(ids.len() >= 5 && parked.contains("answered 503") && !parked.contains("of-the-receiver"), "{parked}");
    // Away still: three failures in a row are enough, and nothing is lost.
    let output = place.run(&["webhook", "resend"]);
    assert!(!output.status.success());
    assert_eq!(place.print(&["webhook", "list"]), parked);
    *refused.lock().unwrap() = false;
    assert!(!place.run(&["webhook", "resend", "no-such-id"]).status.success());
    assert!(place.print(&["webhook", "resend", "--dry-run"]).contains(&format!("{} alerts would be sent", ids.len())));
    assert_eq!(place.print(&["webhook", "resend", ids[2]]), "sent 1 alerts\n");
    assert_eq!(place.print(&["webhook", "resend"]), format!("sent {} alerts\n", ids.len() - 1));
    assert_eq!(place.print(&["webhook", "list"]), "");
    check_requests(&receiver.received());
    let taken: BTreeSet<String> = receiver.taken().into_iter().map(|request| request.id).collect();
    assert_eq!(taken, ids.iter().map(|id| (*id).to_owned()).collect());
    assert_eq!(receiver.taken().len(), ids.len(), "each once");
}

/// One alert, posted over TLS to a receiver with a certificate of `authority`, trusting `trusted`. Returns what is parked.
async fn post_over_tls(authority: &Authority, trusted: Option<&[u8]>) -> (Vec<Received>, Vec<String>) {
    let receiver = Receiver::start_tls(authority, |_, _| Answer::Status(200));
    let folder = tempfile::tempdir().unwrap();
    let parked = Parked::at(folder.path().join("parked.jsonl"), 1 << 20);
    let alerts = Alerts::default();
    // All but the last are done with.
    alerts.stored.lock().unwrap().insert(PartitionId(0), Offset(Alerts::COUNT - 1));
    let webhook = Webhook::new(WebhookParts {
        reader: Box::new(alerts.clone()),
        owned: Arc::new(|| BTreeSet::from([PartitionId(0)])),
        poster: Poster::new(receiver.url.parse().unwrap(), Duration::from_secs(10), trusted).unwrap(),
        signer: Signer::new(SECRET).unwrap(),
        retries: Retries { max_attempts: 1, first_backoff_ms: 1, max_backoff_ms: 1 },
        parked: parked.clone(),
        clock: Arc::new(ManualClock::at(1_700_000_000_000)),
    });
    let stop = CancellationToken::new();
    let watch = async {
        for _ in 0..6_000 {
            if alerts.stored.lock().unwrap()[&PartitionId(0)] == Offset(Alerts::COUNT) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.cancel();
    };
    tokio::join!(webhook.run(stop.clone()), watch);
    let reasons = parked.read_blocking().unwrap().alerts.into_iter().map(|alert| alert.reason).collect();
    (receiver.taken(), reasons)
}

#[tokio::test]
async fn a_receiver_is_trusted_by_its_authority_and_no_other() {
    let (ours, other) = (Authority::new("ours"), Authority::new("another"));
    let (taken, parked) = post_over_tls(&ours, Some(&ours.certificate)).await;
    assert_eq!((taken.len(), parked), (1, Vec::new()));
    for trusted in [Some(other.certificate.as_slice()), None] {
        let (taken, parked) = post_over_tls(&ours, trusted).await;
        assert_eq!(taken.len(), 0, "nothing is said to whom is not trusted");
        let [reason] = parked.as_slice() else { panic!("{parked:?}") };
        assert!(reason.contains("UnknownIssuer") && reason.contains("127.0.0.1"), "{reason}");
        assert!(!reason.contains("of-the-receiver"), "{reason}");
    }
    let url = || "https://127.0.0.1:1/".parse().unwrap();
    let refused = Poster::new(url(), Duration::from_secs(1), Some(b"no certificate")).unwrap_err();
    assert!(refused.to_string().contains("BEGIN CERTIFICATE"), "{refused}");
}
