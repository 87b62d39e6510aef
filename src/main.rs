//! The `shipbell` binary.

fn main() {}
