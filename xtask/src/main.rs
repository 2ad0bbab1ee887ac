//! Set-up, build, demo, lab, tests and benches: every command a person types.

fn main() {}
