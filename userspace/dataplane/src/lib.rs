//! Ports, the worker loop and the per-batch packet pipeline.
