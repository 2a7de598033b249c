//! The report of an evaluation for people: one page of HTML without anything from outside, and the same numbers as JSON.

mod chart;
mod collect;
mod curves;
mod facts;
mod page;
mod segments;
mod tables;
#[cfg(test)]
mod tests;

pub(super) use collect::collect;
pub use facts::{
    Ablation, AlertRow, Baseline, ExplainedUser, Factor, HeadFacts, Importance, ModelRow, MoneyRow, ReportFacts,
    ReportInput, ReportUser, SegmentRow,
};
pub use page::page;
