//! Epochs and the ping gate, sans-IO.
