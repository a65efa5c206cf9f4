//! Standard output and standard error.

use std::io::{IsTerminal, Write};

/// Prints `weft: text` on standard error; the first word is red on a terminal unless `NO_COLOR` is
/// set. Text that starts with a file position stands alone, so that editors can follow it.
pub fn error(text: &str) {
    let mut err = std::io::stderr().lock();
    let positioned = text.contains('\n');
    let (on, off) =
        if colour(std::io::stderr().is_terminal()) { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
    // Nothing is left to tell it to if standard error is gone.
    let _ =
        if positioned { writeln!(err, "{text}") } else { writeln!(err, "{on}weft:{off} {text}") };
}

/// Whether to colour: a terminal, and `NO_COLOR` (<https://no-color.org>) unset or empty.
pub fn colour(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}
