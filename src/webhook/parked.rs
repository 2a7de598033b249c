//! Alerts that were given up, in a file: durable before the next one is sent.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::value::RawValue;

use super::message::Message;
use crate::event::format_time_ms;

/// The file of parked alerts.
#[derive(Debug, Clone)]
pub struct Parked {
    file: PathBuf,
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

impl Parked {
    /// Adds to `file`, which is made when the first alert is parked.
    pub fn at(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into() }
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
        // A line that a crash cut short stays alone on its line: the next one begins with a line end of its own.
        let mut file = File::options().create(true).append(true).read(true).open(&self.file)?;
        if !ends_with_line_end(&file)? {
            line.insert(0, b'\n');
        }
        file.write_all(&line)?;
        file.sync_data()
    }
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
