//! Every metric the program reports, by name.
