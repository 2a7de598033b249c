//! All events of some files in memory, grouped by user: the history that training folds again and again.
//!
//! About 56 bytes a row. Users are folded one after the other, so that at any moment only one user's graph is alive.

use std::{
    borrow::Cow,
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use smallvec::smallvec;

use super::kinds::KindPlan;
use crate::{
    event::{
        CleaningCounts, CleaningParams, Decoder, EARLIEST_MS, END_MS, Edge, Event, EventKind, EventMapping, FileError,
        ItemCategories, Name, NameHash, NameKind, ProductLine, RowReader, UserId,
    },
    graph::{GraphParams, UserGraph},
};

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// More rows than row numbers.
    #[error("`{count}` rows are more than one training can hold (at most `{}`): give it fewer files", u32::MAX)]
    TooManyRows {
        /// Rows read.
        count: u64,
    },
}

/// One product line, search or other row, without its texts.
#[derive(Debug, Clone, Copy)]
struct Row {
    time_ms: i64,
    event_id: u64,
    session: u64,
    item: u32,
    category: u32,
    query: u32,
    price_minor: u32,
    value_minor: u32,
    quantity: u32,
    kind: EventKind,
    has_session: bool,
    /// Another line of the event before it.
    continues: bool,
}

/// No text, no price.
const NONE: u32 = u32::MAX;

/// Texts by number.
#[derive(Debug, Default)]
struct Texts {
    number_of: HashMap<Box<str>, u32>,
    texts: Vec<(Box<str>, NameHash)>,
}

impl Texts {
    fn number(&mut self, kind: NameKind, text: &str) -> u32 {
        if let Some(number) = self.number_of.get(text) {
            return *number;
        }
        let number = u32::try_from(self.texts.len()).unwrap_or(NONE);
        self.number_of.insert(Box::from(text), number);
        self.texts.push((Box::from(text), NameHash::of(kind, text)));
        number
    }

    fn name(&self, number: u32) -> Option<Name<'_>> {
        let (text, hash) = self.texts.get(number as usize)?;
        Some(Name { hash: *hash, text: Cow::Borrowed(text) })
    }
}

/// One user's purchases and activity in a window after the last event that may be seen.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// Whether the user was active in the churn horizon.
    pub active: bool,
    /// Whether the user purchased in the purchase horizon.
    pub purchased: bool,
    /// Items bought in the purchase horizon.
    pub items: Vec<NameHash>,
}

/// What to read.
#[derive(Debug, Clone)]
pub struct CorpusOptions<'a> {
    /// Which kind each of the files' event names is.
    pub plan: &'a KindPlan,
    /// Category of items, for rows that name none.
    pub item_categories: Arc<ItemCategories>,
    /// Events at or after it are not part of the history (milliseconds since the Unix epoch).
    pub cutoff_ms: i64,
    /// Lengths of the horizons after the cutoff in which outcomes are noted, milliseconds: churn, purchase.
    pub horizons_ms: [i64; 2],
}

/// A history by user.
#[derive(Debug, Default)]
pub struct Corpus {
    users: Vec<UserId>,
    /// Rows of user `u`: `rows[starts[u]..starts[u + 1]]`, in order of time, then of the files.
    starts: Vec<usize>,
    rows: Vec<Row>,
    items: Texts,
    categories: Texts,
    queries: Texts,
    first_ms: i64,
    last_ms: i64,
    /// Rows read, refused and repaired, by rule.
    pub counts: CleaningCounts,
    /// Refused rows that still say who was active and when; they count as activity.
    pub bare_count: u64,
}

impl Corpus {
    /// Reads `files` in order. What is before the cutoff becomes the history; what happened to whom in the horizons
    /// after it is returned apart and is no part of the history.
    pub fn read(
        files: &[PathBuf],
        options: &CorpusOptions<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Self, HashMap<UserId, Outcome>), CorpusError> {
        let mut reading = Reading::default();
        for file in files {
            reading.file(file, options, progress)?;
        }
        let Reading { mut corpus, owners, outcomes, .. } = reading;
        corpus.group(&owners);
        Ok((corpus, outcomes))
    }

    /// Sorts rows by user, time and order of the files.
    fn group(&mut self, owners: &[u32]) {
        let mut order: Vec<u32> = (0..).take(owners.len()).collect();
        let rows = &self.rows;
        order.sort_by_key(|row| (owners[*row as usize], rows[*row as usize].time_ms, *row));
        self.rows = order.iter().map(|row| rows[*row as usize]).collect();
        self.starts = Vec::with_capacity(self.users.len() + 1);
        self.starts.push(0);
        let mut count = vec![0_usize; self.users.len()];
        for owner in owners {
            count[*owner as usize] += 1;
        }
        for count in count {
            self.starts.push(self.starts.last().unwrap_or(&0) + count);
        }
        self.first_ms = self.rows.iter().map(|row| row.time_ms).min().unwrap_or(0);
        self.last_ms = self.rows.iter().map(|row| row.time_ms).max().unwrap_or(0);
    }

    /// All users with at least one event, in order of first appearance.
    pub fn users(&self) -> &[UserId] {
        &self.users
    }

    /// Rows of the history.
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// Time of the first event, milliseconds since the Unix epoch; 0 without any.
    pub fn first_ms(&self) -> i64 {
        self.first_ms
    }

    /// Time of the newest event, milliseconds since the Unix epoch; 0 without any.
    pub fn last_ms(&self) -> i64 {
        self.last_ms
    }

    /// Every item's and every category's text with its hash.
    pub fn names(&self) -> impl Iterator<Item = (NameKind, NameHash, &str)> {
        let items = self.items.texts.iter().map(|(text, hash)| (NameKind::Item, *hash, &**text));
        items.chain(self.categories.texts.iter().map(|(text, hash)| (NameKind::Category, *hash, &**text)))
    }

    /// Folds the events of one user and shows the graph at each of the ascending `moments_ms`, as it was before any
    /// event at or after the moment. Moments before the user's first event are left out.
    pub fn replay(
        &self,
        user: usize,
        moments_ms: &[i64],
        params: &GraphParams,
        mut visit: impl FnMut(usize, &UserGraph),
    ) {
        debug_assert!(moments_ms.is_sorted(), "moments ascend");
        let mut graph = UserGraph::default();
        let mut rows = self.rows[self.starts[user]..self.starts[user + 1]].iter().peekable();
        for (place, moment_ms) in moments_ms.iter().enumerate() {
            while let Some(row) = rows.next_if(|row| row.time_ms < *moment_ms) {
                let mut event = self.event(user, row);
                while let Some(more) = rows.next_if(|more| more.continues && more.event_id == row.event_id) {
                    event.lines.extend(self.line(more));
                }
                graph.view_mut(event.kind.view()).fold(&event, params);
            }
            if !graph.is_empty() {
                visit(place, &graph);
            }
        }
    }

    fn event(&self, user: usize, row: &Row) -> Event<'_> {
        Event {
            user: Cow::Borrowed(self.users[user].as_str()),
            kind: row.kind,
            time_ms: row.time_ms,
            event_id: row.event_id,
            session: row.has_session.then_some(row.session),
            query: self.queries.name(row.query),
            lines: self.line(row).map_or_else(|| smallvec![], |line| smallvec![line]),
        }
    }

    fn line(&self, row: &Row) -> Option<ProductLine<'_>> {
        (row.quantity > 0 || row.item != NONE).then(|| ProductLine {
            item: self.items.name(row.item),
            category: self.categories.name(row.category),
            price_minor: (row.price_minor != NONE).then_some(row.price_minor),
            quantity: row.quantity,
            value_minor: row.value_minor,
        })
    }
}

#[derive(Default)]
struct Reading {
    corpus: Corpus,
    owners: Vec<u32>,
    user_numbers: HashMap<UserId, u32>,
    outcomes: HashMap<UserId, Outcome>,
    seen: u64,
}

impl Reading {
    fn file(
        &mut self,
        file: &Path,
        options: &CorpusOptions<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), CorpusError> {
        const REPORT_ROWS: u64 = 100_000;
        let mut mapping = EventMapping::default();
        for (name, kind) in options.plan.kinds() {
            mapping.set(name, kind);
        }
        let decoder = Decoder::new(mapping, CleaningParams::default());
        let mut edge = Edge::new(decoder).with_categories(Arc::clone(&options.item_categories));
        let mut reader = RowReader::open(file)?;
        while let Some(row) = reader.next_row()? {
            self.seen += 1;
            if self.seen.is_multiple_of(REPORT_ROWS) {
                progress(self.seen);
            }
            let Some(class) = options.plan.class(row.name()) else { continue };
            #[expect(clippy::single_match_else, reason = "both answers are the ordinary case")]
            match edge.decode_row(&row, &mut self.corpus.counts) {
                Ok(event) => self.event(&event, class.activity, options)?,
                Err(_) => {
                    // Refused for its content, but it still says that the user was there: labels count what happened.
                    let (Some(user), Some(time_ms)) = (row.user(), row.time_ms()) else { continue };
                    if user.trim().is_empty() || !(EARLIEST_MS..END_MS).contains(&time_ms) {
                        continue;
                    }
                    self.corpus.bare_count += 1;
                    let event = Event {
                        user: Cow::Owned(user.trim().to_owned()),
                        kind: class.kind,
                        time_ms,
                        event_id: xxhash_rust::xxh3::xxh3_64(&row.number.to_le_bytes()),
                        session: None,
                        query: None,
                        lines: smallvec![],
                    };
                    self.event(&event, class.activity, options)?;
                }
            }
        }
        progress(self.seen);
        Ok(())
    }

    fn event(&mut self, event: &Event<'_>, activity: bool, options: &CorpusOptions<'_>) -> Result<(), CorpusError> {
        if event.time_ms >= options.cutoff_ms {
            self.outcome(event, activity, options);
            return Ok(());
        }
        let owner = self.owner(&event.user)?;
        let base = Row {
            time_ms: event.time_ms,
            event_id: event.event_id,
            session: event.session.unwrap_or(0),
            item: NONE,
            category: NONE,
            query: event.query.as_ref().map_or(NONE, |query| self.corpus.queries.number(NameKind::Query, &query.text)),
            price_minor: NONE,
            value_minor: 0,
            quantity: 0,
            kind: event.kind,
            has_session: event.session.is_some(),
            continues: false,
        };
        if event.lines.is_empty() {
            self.push(owner, base);
        }
        for (place, line) in event.lines.iter().enumerate() {
            let item = line.item.as_ref();
            let category = line.category.as_ref();
            let row = Row {
                item: item.map_or(NONE, |item| self.corpus.items.number(NameKind::Item, &item.text)),
                category: category
                    .map_or(NONE, |category| self.corpus.categories.number(NameKind::Category, &category.text)),
                price_minor: line.price_minor.unwrap_or(NONE),
                value_minor: line.value_minor,
                quantity: line.quantity,
                continues: place > 0,
                ..base
            };
            self.push(owner, row);
        }
        Ok(())
    }

    fn outcome(&mut self, event: &Event<'_>, activity: bool, options: &CorpusOptions<'_>) {
        let after_ms = event.time_ms - options.cutoff_ms;
        let [churn_ms, purchase_ms] = options.horizons_ms;
        if after_ms >= churn_ms.max(purchase_ms) {
            return;
        }
        let outcome = self.outcomes.entry(UserId::new(&event.user)).or_default();
        outcome.active |= activity && after_ms < churn_ms;
        if event.kind == EventKind::Purchase && after_ms < purchase_ms {
            outcome.purchased = true;
            for item in event.lines.iter().filter_map(|line| line.item.as_ref()) {
                if !outcome.items.contains(&item.hash) {
                    outcome.items.push(item.hash);
                }
            }
        }
    }

    fn owner(&mut self, user: &str) -> Result<u32, CorpusError> {
        if let Some(number) = self.user_numbers.get(user) {
            return Ok(*number);
        }
        let number =
            u32::try_from(self.corpus.users.len()).map_err(|_| CorpusError::TooManyRows { count: self.seen })?;
        let user = UserId::new(user);
        self.corpus.users.push(user.clone());
        self.user_numbers.insert(user, number);
        Ok(number)
    }

    fn push(&mut self, owner: u32, row: Row) {
        self.owners.push(owner);
        self.corpus.rows.push(row);
    }
}
