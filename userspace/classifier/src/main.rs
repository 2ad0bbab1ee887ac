//! Loads, unloads and reads the XDP classifier without the daemon.

fn main() {}
