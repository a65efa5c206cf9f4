//! `--watch`: the same output again and again.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::Error;

/// The option.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Watch {
    /// Repeat every SECS seconds
    #[arg(short, long, value_name = "SECS", num_args = 0..=1, default_missing_value = "1",
          value_parser = seconds)]
    pub watch: Option<Duration>,
}

/// From a tenth of a second to a day.
fn seconds(text: &str) -> Result<Duration, String> {
    let s: f64 = text.parse().map_err(|_| String::from("not a number of seconds"))?;
    if !(0.1..=86_400.0).contains(&s) {
        return Err(String::from("must be from 0.1 to 86400 seconds"));
    }
    Ok(Duration::from_secs_f64(s))
}

impl Watch {
    /// Prints what `output` gives, once or as often as asked; on a terminal each time over what
    /// stood there, unless it is JSON.
    pub fn repeat(
        &self,
        json: bool,
        mut output: impl FnMut() -> Result<String, Error>,
    ) -> Result<(), Error> {
        let over = self.watch.is_some() && !json && std::io::stdout().is_terminal();
        loop {
            let text = output()?;
            let mut out = std::io::stdout().lock();
            if over {
                // Home, then clear to the end of the screen: no flicker.
                write!(out, "\x1b[H\x1b[J")?;
            }
            out.write_all(text.as_bytes())?;
            out.flush()?;
            drop(out);
            let Some(pause) = self.watch else { return Ok(()) };
            std::thread::sleep(pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_have_bounds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "1e9", "soon", "nan"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_the_option_it_is_printed_once_and_an_error_ends_it() {
        let mut printed = 0;
        let once = Watch::default().repeat(false, || {
            printed += 1;
            Ok(String::new())
        });
        assert!(once.is_ok());
        assert_eq!(printed, 1);
        let watch = Watch { watch: Some(Duration::from_millis(1)) };
        let failed = watch.repeat(true, || {
            printed += 1;
            if printed < 4 { Ok(String::new()) } else { Err(Error::Failed(String::from("gone"))) }
        });
        assert_eq!(failed.unwrap_err().to_string(), "gone");
        assert_eq!(printed, 4);
    }
}
