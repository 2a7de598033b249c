//! Assembly, shutdown and schedule.
