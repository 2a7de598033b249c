//! Properties that hold for any input.

mod alerts;
mod days;
mod fold;
mod records;
