//! Network namespaces for tests and for people: the lab, the demo and its checks.

fn main() {}
