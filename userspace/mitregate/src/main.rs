//! Mitregate: an IPsec gateway and client whose tunnels are proven before they are trusted.

fn main() {}
