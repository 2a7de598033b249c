//! From scores to alerts, recommendations and output records.
