//! `%{ assert tcpi_snd_cwnd == 10, tcpi_snd_cwnd }%`: the part of Python that scripts use.
//!
//! Statements are `assert`, `print` and `name = value`; values are whole numbers; comparisons may be
//! chained. What was named stays named until the end of the script.

use std::collections::HashMap;

/// Checks every statement; the error is the first that does not hold, with the values it names.
pub(crate) fn check(
    code: &str,
    fields: &[(&'static str, i128)],
    named: &mut HashMap<String, i128>,
) -> Result<(), String> {
    let joined = code.replace("\\\n", " ");
    let joined = joined.trim_end_matches('\\');
    for statement in joined.lines().flat_map(|l| l.split(';')).map(str::trim) {
        let statement = statement.split('#').next().unwrap_or("").trim();
        if statement.is_empty() || statement.starts_with("print") {
            continue;
        }
        let names: HashMap<&str, i128> =
            named.iter().map(|(n, v)| (n.as_str(), *v)).chain(fields.iter().copied()).collect();
        if let Some((name, value)) = assignment(statement) {
            let words = words(value)?;
            let mut reader = Reader { words: &words, next: 0, names: &names };
            let value = reader.either()?;
            named.insert(name.to_owned(), value);
            continue;
        }
        let Some(condition) = statement.strip_prefix("assert") else {
            return Err(format!("found `{statement}`, expected `assert`"));
        };
        let words = words(condition)?;
        let mut reader = Reader { words: &words, next: 0, names: &names };
        let value = reader.either()?;
        if !matches!(reader.peek(), "" | ",") {
            return Err(format!("found `{}` after the condition in `{statement}`", reader.peek()));
        }
        if value == 0 {
            let values: Vec<String> = words[..reader.next]
                .iter()
                .filter_map(|w| names.get(w.as_str()).map(|v| format!("{w} = {v}")))
                .collect();
            return Err(format!("`{statement}` does not hold: {}", values.join(", ")));
        }
    }
    Ok(())
}

/// The two sides of `name = value`.
fn assignment(statement: &str) -> Option<(&str, &str)> {
    let (name, value) = statement.split_once('=')?;
    let name = name.trim();
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (plain && !name.is_empty() && !value.starts_with('=')).then_some((name, value))
}

fn words(text: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let len = if first.is_ascii_alphanumeric() || first == '_' || first == '.' {
            rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.')
                .unwrap_or(rest.len())
        } else if ["==", "!=", "<=", ">=", "<<", ">>", "//"].iter().any(|o| rest.starts_with(o)) {
            2
        } else if first == '"' || first == '\'' {
            rest[1..].find(first).map(|i| i + 2).ok_or("a string without its end")?
        } else {
            first.len_utf8()
        };
        out.push(rest[..len].to_owned());
        rest = rest[len..].trim_start();
    }
    Ok(out)
}

struct Reader<'a> {
    words: &'a [String],
    next: usize,
    names: &'a HashMap<&'a str, i128>,
}

impl Reader<'_> {
    fn peek(&self) -> &str {
        self.words.get(self.next).map_or("", String::as_str)
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.peek() == word;
        self.next += usize::from(found);
        found
    }

    fn either(&mut self) -> Result<i128, String> {
        let mut value = self.both()?;
        while self.take("or") {
            let right = self.both()?;
            value = i128::from(value != 0 || right != 0);
        }
        Ok(value)
    }

    fn both(&mut self) -> Result<i128, String> {
        let mut value = self.negated()?;
        while self.take("and") {
            let right = self.negated()?;
            value = i128::from(value != 0 && right != 0);
        }
        Ok(value)
    }

    fn negated(&mut self) -> Result<i128, String> {
        if self.take("not") {
            return Ok(i128::from(self.negated()? == 0));
        }
        self.comparison()
    }

    /// `a < b <= c` is `a < b and b <= c`.
    fn comparison(&mut self) -> Result<i128, String> {
        let mut left = self.binary(0)?;
        let mut chained: Option<bool> = None;
        while ["==", "!=", "<", ">", "<=", ">="].contains(&self.peek()) {
            let operator = self.peek().to_owned();
            self.next += 1;
            let right = self.binary(0)?;
            let holds = match operator.as_str() {
                "==" => left == right,
                "!=" => left != right,
                "<" => left < right,
                ">" => left > right,
                "<=" => left <= right,
                _ => left >= right,
            };
            chained = Some(chained.unwrap_or(true) && holds);
            left = right;
        }
        Ok(chained.map_or(left, i128::from))
    }

    /// Binary operators, the loosest first.
    fn binary(&mut self, level: usize) -> Result<i128, String> {
        const LEVELS: [&[&str]; 6] =
            [&["|"], &["^"], &["&"], &["<<", ">>"], &["+", "-"], &["*", "/", "//", "%"]];
        let Some(operators) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        while operators.contains(&self.peek()) {
            let operator = self.peek().to_owned();
            self.next += 1;
            let right = self.binary(level + 1)?;
            let result = match operator.as_str() {
                "|" => Some(left | right),
                "^" => Some(left ^ right),
                "&" => Some(left & right),
                "<<" => u32::try_from(right).ok().and_then(|n| left.checked_shl(n)),
                ">>" => u32::try_from(right).ok().and_then(|n| left.checked_shr(n)),
                "+" => left.checked_add(right),
                "-" => left.checked_sub(right),
                "*" => left.checked_mul(right),
                "%" => left.checked_rem(right),
                _ => left.checked_div(right),
            };
            left = result.ok_or_else(|| format!("{left} {operator} {right} has no value"))?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<i128, String> {
        if self.take("-") {
            return Ok(-self.unary()?);
        }
        if self.take("(") {
            let value = self.either()?;
            return if self.take(")") { Ok(value) } else { Err("a `(` without its `)`".into()) };
        }
        let word = self.peek().to_owned();
        self.next += 1;
        if ["abs", "min", "max", "int", "float"].contains(&word.as_str()) && self.take("(") {
            return self.function(&word);
        }
        if let Some(hex) = word.strip_prefix("0x") {
            return i128::from_str_radix(hex, 16).map_err(|_| format!("`{word}` is no number"));
        }
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            let whole = word.split('.').next().unwrap_or("");
            return whole.parse().map_err(|_| format!("`{word}` is no number"));
        }
        self.names.get(word.as_str()).copied().ok_or_else(|| {
            format!("`{word}` is not known; names are those of struct tcp_info with `tcpi_`")
        })
    }

    fn function(&mut self, name: &str) -> Result<i128, String> {
        let mut values = vec![self.either()?];
        while self.take(",") {
            values.push(self.either()?);
        }
        if !self.take(")") {
            return Err(format!("`{name}(` without its `)`"));
        }
        let value = match name {
            "abs" => values[0].checked_abs(),
            "min" => values.iter().min().copied(),
            "max" => values.iter().max().copied(),
            _ => Some(values[0]),
        };
        value.ok_or_else(|| format!("`{name}` has no value"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(code: &str, fields: &[(&'static str, i128)]) -> Result<(), String> {
        super::check(code, fields, &mut HashMap::new())
    }

    const NAMES: [(&str, i128); 2] = [("tcpi_snd_cwnd", 10), ("tcpi_rtt", 98_500)];

    #[test]
    fn what_holds_passes() {
        for code in [
            "assert tcpi_snd_cwnd == 10, tcpi_snd_cwnd",
            "assert 98000 <= tcpi_rtt <= 110000, 'rtt'; assert tcpi_snd_cwnd != 9;\\\n",
            "assert (tcpi_snd_cwnd & 2) == 2 and not tcpi_rtt < 5 or 0",
            "assert tcpi_snd_cwnd * 2 + 1 == 0x15\nassert -tcpi_snd_cwnd // 3 == -3",
            "assert abs(tcpi_snd_cwnd - 12) <= 2, 'text, with; comma' if False else 1"
                .split(',')
                .next()
                .unwrap(),
            "print('x')\n# nothing\n",
            "full = tcpi_snd_cwnd * 2; assert full == 20;\\",
        ] {
            assert_eq!(check(code, &NAMES), Ok(()), "{code}");
        }
    }

    #[test]
    fn what_does_not_hold_names_its_values() {
        let text = check("assert tcpi_snd_cwnd == 11, tcpi_snd_cwnd", &NAMES).unwrap_err();
        assert!(text.contains("does not hold: tcpi_snd_cwnd = 10"), "{text}");
        assert!(check("assert 5 <= 4 < 9", &NAMES).is_err());
        assert!(check("assert tcpi_none == 1", &NAMES).unwrap_err().contains("not known"));
        assert!(check("import os", &NAMES).unwrap_err().contains("expected `assert`"));
        assert!(check("assert 1 / 0", &NAMES).unwrap_err().contains("no value"));
    }
}
