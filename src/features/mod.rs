//! Graph to model inputs, the same for training and serving.
