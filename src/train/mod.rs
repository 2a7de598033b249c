//! Labels, data sets, training, evaluation and promotion.
