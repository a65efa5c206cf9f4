//! End-to-end benchmarks of weft beside the kernel and other stacks. What single stages cost, in
//! time and instructions, is in `weft-micro`.
