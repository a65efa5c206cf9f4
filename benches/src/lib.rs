//! Micro and end-to-end benchmarks of weft.
