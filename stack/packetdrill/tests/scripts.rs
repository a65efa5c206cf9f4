//! Every script under `scripts/`, each a test of its own.
fn main() {}
