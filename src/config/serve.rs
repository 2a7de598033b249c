//! Keys of the HTTP server, the program's log lines and its end.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

/// The HTTP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Whether the server runs.
    pub enabled: bool,
    /// Address and port. One that other machines reach needs a token.
    pub listen: SocketAddr,
    /// File that holds the token which requests must carry (`Authorization: Bearer TOKEN`), 16 characters or more. All paths but
    /// `/livez` and `/readyz` ask for it. Without a token whoever reaches the address may read and write.
    pub token_file: Option<PathBuf>,
    /// Environment variable that holds the token instead of a file.
    pub token_variable: Option<String>,
    /// Whether to listen to other machines without a token: in a container whose port is not published, behind a proxy that asks
    /// for credentials itself.
    pub allow_without_token: bool,
    /// Largest request body in bytes. Must not be below `events.max_record_bytes`.
    pub max_body_bytes: usize,
    /// Milliseconds for one request, from its first byte to the answer.
    pub request_timeout_ms: u64,
    /// Events of one `POST /v1/events` at most.
    pub max_events: usize,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            token_file: None,
            token_variable: None,
            allow_without_token: false,
            max_body_bytes: 8 * 1024 * 1024,
            request_timeout_ms: 30_000,
            max_events: 10_000,
        }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The program's log lines, on standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoggingConfig {
    /// What is shown, as in `RUST_LOG` (`debug`, `undercurrent::stream=debug,info`). Our own lines from INFO up, those of libraries
    /// from WARN up. `RUST_LOG` wins.
    pub filter: String,
    /// `text` (default) or `json`.
    pub format: LogFormat,
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self { filter: "undercurrent=info,warn".to_owned(), format: LogFormat::Text }
    }
}

/// The end of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownConfig {
    /// Milliseconds for the whole drain: last batch, last snapshot, leaving the group. Cutting it
    /// short loses nothing: the next start replays more.
    pub deadline_ms: u64,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { deadline_ms: 30_000 }
    }
}
