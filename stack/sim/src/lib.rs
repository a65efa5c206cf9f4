//! Seeded network of weft stacks in virtual time.
