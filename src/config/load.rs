//! Reads the layers and turns them into one tree, collecting every wrong key on the way.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use super::Config;

/// Environment variables with this prefix set keys: `UNDERCURRENT__HTTP__LISTEN` is `http.listen`.
pub const ENV_PREFIX: &str = "UNDERCURRENT__";

/// At most this many wrong keys are collected before reading stops; a file with more is not a configuration.
const PROBLEM_LIMIT: usize = 100;

/// Where the configuration comes from, weakest first.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The TOML file, if any.
    pub file: Option<PathBuf>,
    /// Environment variables; those without [`ENV_PREFIX`] are ignored.
    pub environment: Vec<(String, String)>,
    /// `section.key=value` pairs from the command line.
    pub settings: Vec<(String, String)>,
}

/// One wrong key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key with its section, as in the file.
    pub key: String,
    /// What must hold.
    pub rule: String,
    /// The value found, as TOML.
    pub value: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "`{}`: {}, got `{}`", self.key, self.rule, self.value)
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file `{path}`: {message}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
    /// The file is not TOML.
    #[error("the configuration file `{path}` is not TOML: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what, with the line.
        message: String,
    },
    /// Keys that are unknown, of the wrong type, out of range or in conflict.
    #[error("{} wrong in the configuration:{}", count(problems), list(problems))]
    Invalid {
        /// All of them.
        problems: Vec<Problem>,
    },
    /// The tree cannot be written as TOML.
    #[error("cannot print the configuration: {message}")]
    Print {
        /// What the serializer said.
        message: String,
    },
}

fn count(problems: &[Problem]) -> String {
    if problems.len() == 1 { "1 key is".to_owned() } else { format!("{} keys are", problems.len()) }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |list, problem| {
        list + "
  " + &problem.to_string()
    })
}

/// Merges the layers and decodes them. A key that cannot be decoded is reported and keeps its default, so that rules
/// and relations of the others can still be checked.
pub(super) fn read(sources: &Sources) -> Result<(Config, Vec<Problem>), ConfigError> {
    let mut table = match &sources.file {
        Some(path) => parse_file(path)?,
        None => toml::Table::new(),
    };
    let mut problems = Vec::new();
    let mut texts = Texts::new()?;
    for (name, text) in &sources.environment {
        if let Some(key) = name.strip_prefix(ENV_PREFIX) {
            texts.set(&mut table, &key.to_lowercase().replace("__", "."), text, &mut problems);
        }
    }
    for (key, text) in &sources.settings {
        texts.set(&mut table, key, text, &mut problems);
    }
    let config = decode(table, &texts, &mut problems);
    Ok((config, problems))
}

fn parse_file(path: &Path) -> Result<toml::Table, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), message: error.to_string() })?;
    text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        path: path.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    })
}

/// Values that came as bare text, from the environment and from flags.
struct Texts {
    /// The tree of defaults: it says where the free maps are.
    defaults: toml::Table,
    /// The text as it was given, by key: what TOML reads as a number may have been meant as a name.
    given: BTreeMap<String, String>,
}

impl Texts {
    fn new() -> Result<Self, ConfigError> {
        let defaults = toml::Table::try_from(Config::default())
            .map_err(|source| ConfigError::Print { message: source.to_string() })?;
        Ok(Self { defaults, given: BTreeMap::new() })
    }

    /// Puts `text` at `key`, as TOML where it reads as TOML and as a string otherwise.
    fn set(&mut self, table: &mut toml::Table, key: &str, text: &str, problems: &mut Vec<Problem>) {
        let mut problem = |rule: String| problems.push(Problem { key: key.to_owned(), rule, value: text.to_owned() });
        let mut parts = self.parts_of(key);
        let Some(last) = parts.pop().filter(|last| !last.is_empty()) else {
            problem("must be `section.key`".to_owned());
            return;
        };
        let mut place = table;
        for part in &parts {
            let entry = place.entry((*part).to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            let toml::Value::Table(inner) = entry else {
                problem(format!("`{part}` must be a section"));
                return;
            };
            place = inner;
        }
        place.insert(last.to_owned(), value_of(text));
        parts.push(last);
        self.given.insert(parts.join("."), text.to_owned());
    }

    /// The names of the sections and of the key. In a free map what is left is one name, dots and all
    /// (`kafka.client_options.ssl.ca.location`); quotes around it are taken off.
    fn parts_of<'a>(&self, key: &'a str) -> Vec<&'a str> {
        let (mut parts, mut rest, mut place) = (Vec::new(), key, Some(&self.defaults));
        loop {
            if !parts.is_empty() && place.is_some_and(toml::Table::is_empty) {
                parts.push(rest.trim_matches('"'));
                return parts;
            }
            let Some((head, tail)) = rest.split_once('.') else {
                parts.push(rest);
                return parts;
            };
            parts.push(head);
            rest = tail;
            place = place.and_then(|table| table.get(head)).and_then(toml::Value::as_table);
        }
    }
}

fn value_of(text: &str) -> toml::Value {
    format!("value = {text}")
        .parse::<toml::Table>()
        .ok()
        .filter(|parsed| parsed.len() == 1)
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

/// Decodes `table`; a key that fails is noted and taken out, so that the next attempt finds the next one. Where a text
/// was given and TOML made another type of it than the key has (`kafka.instance_id=0`), the text itself is tried first.
fn decode(mut table: toml::Table, texts: &Texts, problems: &mut Vec<Problem>) -> Config {
    while problems.len() < PROBLEM_LIMIT {
        let error = match serde_path_to_error::deserialize(toml::Value::Table(table.clone())) {
            Ok(config) => return config,
            Err(error) => error,
        };
        let key = error.path().to_string();
        let rule = rule_of(error.inner());
        if let (Some(text), Some(value)) =
            (texts.given.get(&key), find(&mut table, &key, |place, name| place.get_mut(name)))
            && !value.is_str()
        {
            // Once at most: after it the value is a string, and if that is wrong too, the key is noted.
            *value = toml::Value::String(text.clone());
            continue;
        }
        let removed = find(&mut table, &key, toml::Table::remove);
        let value = removed.as_ref().map_or_else(String::new, shown);
        problems.push(Problem { key, rule, value });
        if removed.is_none() {
            break;
        }
    }
    Config::default()
}

/// The decoder's message in one line, without the lines that point into a file that is no longer at hand.
fn rule_of(error: &toml::de::Error) -> String {
    error.message().trim().replace('\n', " ")
}

/// What `take` makes of the value at `key`; `None` when there is none.
fn find<'a, T>(
    table: &'a mut toml::Table,
    key: &str,
    take: impl FnOnce(&'a mut toml::Table, &str) -> Option<T>,
) -> Option<T> {
    // A map key may hold dots itself (`kafka.options."ssl.ca.location"`), so the longest section that exists wins.
    let mut place = table;
    let mut rest = key;
    loop {
        if place.contains_key(rest) {
            return take(place, rest);
        }
        let (head, tail) = rest.split_once('.')?;
        // `[3]` after a name is a place in an array: the whole array goes.
        let name = head.split('[').next().unwrap_or(head);
        rest = tail;
        place = place.get_mut(name)?.as_table_mut()?;
        if let Some(array) = tail.split('[').next().filter(|array| array.len() < tail.len() && !tail.contains('.')) {
            return take(place, array);
        }
    }
}

/// A value in one line.
pub(super) fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Table(_) => "a section".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(settings: &[(&str, &str)], expected: &[&str]) {
        let settings = settings.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        let found = match Config::load(&Sources { settings, ..Sources::default() }) {
            Ok(_) => Vec::new(),
            Err(ConfigError::Invalid { problems }) => problems.into_iter().map(|problem| problem.key).collect(),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn defaults_are_valid() {
        check(&[], &[]);
    }

    #[test]
    fn a_flag_may_be_a_bare_word_or_toml() {
        check(&[("input.log", "kafka"), ("kafka.brokers", "\"a:9092\""), ("stream.threads", "1")], &[]);
    }

    #[test]
    fn a_name_that_reads_as_a_number_stays_a_name() {
        let load = |settings: &[(&str, &str)]| {
            let settings = settings.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
            Config::load(&Sources { settings, ..Sources::default() }).unwrap()
        };
        let config = load(&[
            ("kafka.instance_id", "007"),
            ("kafka.group_id", "true"),
            ("kafka.sasl_username", "1.5"),
            ("kafka.client_options.socket.timeout.ms", "5000"),
            ("kafka.consumer_options.\"fetch.min.bytes\"", "1"),
            ("events.mapping.2001", "view"),
            ("decision.cooldown_days", "3"),
        ]);
        assert_eq!((config.kafka.instance_id.as_str(), config.kafka.group_id.as_str()), ("007", "true"));
        assert_eq!(config.kafka.sasl_username, "1.5");
        assert_eq!(config.kafka.client_options["socket.timeout.ms"], "5000");
        assert_eq!(config.kafka.consumer_options["fetch.min.bytes"], "1");
        assert_eq!(config.events.mapping["2001"], "view");
        assert!((config.decision.cooldown_days - 3.0).abs() < f32::EPSILON);
    }

    #[test]
    fn every_unknown_key_is_named() {
        check(
            &[("kafka.brokerz", "x"), ("http.port", "1"), ("nothing.at_all", "1")],
            &["http.port", "kafka.brokerz", "nothing"],
        );
    }

    #[test]
    fn wrong_types_are_named_too() {
        check(
            &[("stream.threads", "many"), ("stream.linger_ms", "-1"), ("http.listen", "7")],
            &["http.listen", "stream.linger_ms", "stream.threads"],
        );
    }

    #[test]
    fn a_value_where_a_section_stands_is_named() {
        check(&[("http", "7"), ("stream.threads", "0")], &["http", "stream.threads"]);
    }

    #[test]
    fn a_key_below_a_value_is_named() {
        check(&[("http", "7"), ("http.listen", "x")], &["http.listen", "http"]);
    }

    #[test]
    fn a_wrong_value_in_a_free_map_is_named() {
        check(&[("events.mapping.clickout", "click")], &["events.mapping.clickout"]);
    }

    #[test]
    fn environment_wins_over_the_file_and_flags_win_over_both() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("undercurrent.toml");
        std::fs::write(&file, "[stream]\nlinger_ms = 1\nmax_records = 11\nidle_wait_ms = 101\n").unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let config = Config::load(&Sources {
            file: Some(file),
            environment: vec![
                pair("UNDERCURRENT__STREAM__LINGER_MS", "2"),
                pair("UNDERCURRENT__STREAM__MAX_RECORDS", "22"),
                pair("PATH", "/bin"),
            ],
            settings: vec![pair("stream.linger_ms", "3")],
        })
        .unwrap();
        assert_eq!((config.stream.linger_ms, config.stream.max_records, config.stream.idle_wait_ms), (3, 22, 101));
    }

    #[test]
    fn a_file_that_is_not_toml_says_where() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("undercurrent.toml");
        std::fs::write(&file, "[stream\n").unwrap();
        let error = Config::load(&Sources { file: Some(file), ..Sources::default() }).unwrap_err();
        assert!(error.to_string().contains("line 1"), "{error}");
    }
}
