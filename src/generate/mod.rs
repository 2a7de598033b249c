//! Made-up shoppers for load and tests.
