//! The `weft` program; everything is in the library `weft_cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_cli::main()
}
