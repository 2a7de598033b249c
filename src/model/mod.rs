//! The multi-view network and its bundle.
