//! weft: daemon, operator commands and lab.
fn main() {}
