//! Workflows of a contributor.

fn main() {}
