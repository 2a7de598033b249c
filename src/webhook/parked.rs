//! Alerts that were given up, in a file: durable before the next one is sent, and bounded.
//!
//! The file is written by the daemon and rewritten by `undercurrent webhook resend`, each under a lock on it. When it is full
//! it becomes `FILE.1`, in place of the one before it, and a new one begins.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::warn;

use super::message::Message;
use crate::{
    event::{Offset, PartitionId, format_time_ms},
    metrics as names,
};

/// The file of parked alerts.
#[derive(Debug, Clone)]
pub struct Parked {
    file: PathBuf,
    max_bytes: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    webhook_id: &'a str,
    parked_at: String,
    partition: i32,
    offset: i64,
    attempts: u32,
    reason: &'a str,
    body: &'a RawValue,
}

#[derive(Deserialize)]
struct StoredLine {
    webhook_id: String,
    parked_at: String,
    partition: i32,
    offset: i64,
    attempts: u32,
    reason: String,
    body: Box<RawValue>,
}

/// One parked alert, as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedAlert {
    /// What is posted.
    pub message: Message,
    /// When it was given up, in words.
    pub parked_at: String,
    /// Attempts until then.
    pub attempts: u32,
    /// Why the last one failed.
    pub reason: String,
}

/// What the files hold.
#[derive(Debug, Default)]
pub struct ParkedAlerts {
    /// The alerts, oldest first; of an id that was parked twice the newest line.
    pub alerts: Vec<ParkedAlert>,
    /// Lines that are no parked alert: a crash cut them short, or a person wrote them.
    pub unreadable_count: usize,
}

impl Parked {
    /// Adds to `file`, which is made when the first alert is parked. It and the one before it have about `max_bytes` together.
    pub fn at(file: impl Into<PathBuf>, max_bytes: u64) -> Self {
        Self { file: file.into(), max_bytes }
    }

    /// The files that exist, the older one first.
    fn files(&self) -> impl Iterator<Item = PathBuf> {
        [self.before(), self.file.clone()].into_iter().filter(|file| file.exists())
    }

    /// The file that was full before this one.
    fn before(&self) -> PathBuf {
        let mut name = self.file.clone().into_os_string();
        name.push(".1");
        name.into()
    }

    /// Adds one alert, durably.
    pub(super) fn add_blocking(
        &self,
        message: &Message,
        (attempts, reason): (u32, &str),
        now_ms: i64,
    ) -> io::Result<()> {
        if let Some(folder) = self.file.parent().filter(|folder| *folder != Path::new("")) {
            fs::create_dir_all(folder)?;
        }
        let mut line = serde_json::to_vec(&Line {
            webhook_id: &message.id,
            parked_at: format_time_ms(now_ms),
            partition: message.partition.0,
            offset: message.offset.0,
            attempts,
            reason,
            body: serde_json::from_slice(&message.body)?,
        })?;
        line.push(b'\n');
        let mut file = self.open_locked()?;
        let length = file.metadata()?.len();
        if length > 0 && length + line.len() as u64 > self.max_bytes / 2 {
            self.make_room(&file)?;
            file = self.open_locked()?;
        }
        // A line that a crash cut short stays alone on its line: the next one begins with a line end of its own.
        if !ends_with_line_end(&file)? {
            line.insert(0, b'\n');
        }
        file.write_all(&line)?;
        file.sync_data()
    }

    /// Puts the full file in the place of the one before it. The lock is on the full one.
    fn make_room(&self, full: &File) -> io::Result<()> {
        let before = self.before();
        if before.exists() {
            let dropped = read(&before)?.len() as u64;
            warn!(dropped, file = %before.display(), "the oldest parked alerts are dropped to make room");
            metrics::counter!(names::WEBHOOK_DROPPED).increment(dropped);
        }
        full.sync_data()?;
        fs::rename(&self.file, before)
    }

    /// Opens the file for adding, made where it is not, and locked against everybody else who does so.
    fn open_locked(&self) -> io::Result<File> {
        loop {
            let file = File::options().create(true).append(true).read(true).open(&self.file)?;
            file.lock()?;
            // While this one waited for the lock another file may have come into its place.
            if is_the_file_at(&file, &self.file)? {
                return Ok(file);
            }
        }
    }

    /// Reads what is parked. Blocks.
    pub fn read_blocking(&self) -> io::Result<ParkedAlerts> {
        let mut found = ParkedAlerts::default();
        for file in self.files() {
            for line in read(&file)? {
                match serde_json::from_slice::<StoredLine>(&line) {
                    Ok(line) => found.alerts.push(line.into()),
                    Err(_) => found.unreadable_count += 1,
                }
            }
        }
        let mut seen = HashSet::new();
        found.alerts.reverse();
        found.alerts.retain(|alert| seen.insert(alert.message.id.clone()));
        found.alerts.reverse();
        Ok(found)
    }

    /// Takes the alerts with these ids out, each file in one atomic step. Alerts that are parked meanwhile stay. Blocks.
    pub fn remove_blocking(&self, ids: &HashSet<String>) -> io::Result<()> {
        for path in self.files() {
            let file = File::open(&path)?;
            // Whoever adds waits; the daemon's next look finds the new file.
            file.lock()?;
            if !is_the_file_at(&file, &path)? {
                return Err(io::Error::other("another program changed it at the same moment"));
            }
            let is_sent = |line: &[u8]| {
                serde_json::from_slice::<StoredLine>(line).is_ok_and(|line| ids.contains(&line.webhook_id))
            };
            let kept: Vec<Vec<u8>> = read(&path)?.into_iter().filter(|line| !is_sent(line)).collect();
            let mut name = path.clone().into_os_string();
            name.push(".new");
            let new = PathBuf::from(name);
            let mut written = File::create(&new)?;
            for line in kept {
                written.write_all(&line)?;
                written.write_all(b"\n")?;
            }
            written.sync_all()?;
            fs::rename(&new, &path)?;
        }
        Ok(())
    }
}

impl From<StoredLine> for ParkedAlert {
    fn from(line: StoredLine) -> Self {
        let StoredLine { webhook_id, parked_at, partition, offset, attempts, reason, body } = line;
        let body = body.get().as_bytes().to_vec();
        let message = Message { partition: PartitionId(partition), offset: Offset(offset), id: webhook_id, body };
        Self { message, parked_at, attempts, reason }
    }
}

/// The lines of a file that say something.
fn read(file: &Path) -> io::Result<Vec<Vec<u8>>> {
    let lines = BufReader::new(File::open(file)?).split(b'\n');
    lines.filter(|line| !line.as_ref().is_ok_and(Vec::is_empty)).collect()
}

fn is_the_file_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (mine, there) = (file.metadata()?, fs::metadata(path));
    Ok(there.is_ok_and(|there| (mine.dev(), mine.ino()) == (there.dev(), there.ino())))
}

fn ends_with_line_end(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    Ok(last == [b'\n'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: usize) -> Message {
        let body = format!(r#"{{"type":"churn_alert.entered","data":{{"alert_id":"a{number}","churn":0.10}}}}"#);
        Message { partition: PartitionId(0), offset: Offset(0), id: format!("a{number}"), body: body.into_bytes() }
    }

    fn ids(parked: &Parked) -> Vec<String> {
        parked.read_blocking().unwrap().alerts.into_iter().map(|alert| alert.message.id).collect()
    }

    #[test]
    fn the_file_is_bounded_and_the_newest_stay() {
        const MAX_BYTES: u64 = 4_000;
        let folder = tempfile::tempdir().unwrap();
        let parked = Parked::at(folder.path().join("parked.jsonl"), MAX_BYTES);
        for number in 0..500 {
            parked.add_blocking(&message(number), (16, "`host` answered 500"), 0).unwrap();
            let bytes: u64 = parked.files().map(|file| fs::metadata(file).unwrap().len()).sum();
            assert!(bytes <= MAX_BYTES, "{bytes} bytes");
        }
        let ids = ids(&parked);
        assert!((8..30).contains(&ids.len()), "{} alerts", ids.len());
        let expected: Vec<String> = (500 - ids.len()..500).map(|number| format!("a{number}")).collect();
        assert_eq!(ids, expected);
    }

    #[test]
    fn what_is_taken_out_is_gone_and_the_rest_is_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let parked = Parked::at(folder.path().join("parked.jsonl"), 1_000);
        for number in [1, 2, 3, 1] {
            parked.add_blocking(&message(number), (3, "closed"), 0).unwrap();
        }
        let before = parked.read_blocking().unwrap();
        assert_eq!(before.alerts[2].message, message(1), "byte for byte, and once an id");
        assert_eq!(ids(&parked), ["a2", "a3", "a1"]);
        File::options().append(true).open(&parked.file).unwrap().write_all(b"{\"webhook_id\":\"cut").unwrap();
        parked.remove_blocking(&HashSet::from(["a1".to_owned(), "a2".to_owned()])).unwrap();
        parked.add_blocking(&message(4), (3, "closed"), 0).unwrap();
        let after = parked.read_blocking().unwrap();
        assert_eq!(ids(&parked), ["a3", "a4"]);
        assert_eq!(after.unreadable_count, 1, "what cannot be read is left for a person");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "two writers at once are the point")]
    fn alerts_parked_while_others_are_taken_out_are_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let parked = Parked::at(folder.path().join("parked.jsonl"), 1 << 20);
        parked.add_blocking(&message(0), (1, "closed"), 0).unwrap();
        let adding = parked.clone();
        let adder = std::thread::spawn(move || {
            for number in 1..200 {
                adding.add_blocking(&message(number), (1, "closed"), 0).unwrap();
            }
        });
        while !adder.is_finished() {
            parked.remove_blocking(&HashSet::from(["a0".to_owned()])).unwrap();
        }
        adder.join().unwrap();
        parked.remove_blocking(&HashSet::from(["a0".to_owned()])).unwrap();
        assert_eq!(ids(&parked).len(), 199);
    }
}
