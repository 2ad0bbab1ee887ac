//! Benches: the engine on memory ports, the classifier, end to end.

fn main() {}
