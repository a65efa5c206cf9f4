//! Keys as BIND's `tsig-keygen` writes them.

use std::path::Path;

/// The longest key file.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// A key for HMAC-SHA256.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// Its name, in lower case, without a last dot.
    pub(super) name: String,
    pub(super) secret: Vec<u8>,
}

impl std::fmt::Debug for Key {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Reads `key "name" { algorithm hmac-sha256; secret "..."; };`.
pub(super) fn read(path: &Path) -> Result<Key, String> {
    let told = |e: String| format!("key file '{}': {e}", path.display());
    let length = std::fs::metadata(path).map_err(|e| told(e.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(told(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| told(e.to_string()))?;
    parse(&text).map_err(|e| told(e.to_owned()))
}

fn parse(text: &str) -> Result<Key, &'static str> {
    let separate = |c: char| c.is_whitespace() || "{};\"".contains(c);
    let lines = text.lines().map(|l| {
        let l = l.split("//").next().unwrap_or_default();
        l.split('#').next().unwrap_or_default()
    });
    let words: Vec<&str> =
        lines.flat_map(|l| l.split(separate)).filter(|w| !w.is_empty()).collect();
    let after = |word: &str| {
        let at = words.iter().position(|w| w.eq_ignore_ascii_case(word))?;
        words.get(at + 1).copied()
    };
    let name = after("key").ok_or("there is no 'key \"name\" { ... };' in it")?;
    let algorithm = after("algorithm").ok_or("it has no 'algorithm'")?;
    if !algorithm.trim_end_matches('.').eq_ignore_ascii_case("hmac-sha256") {
        return Err("its algorithm is not hmac-sha256; make one with tsig-keygen");
    }
    let secret = after("secret").and_then(base64).ok_or("its secret is missing or no base64")?;
    if secret.is_empty() {
        return Err("its secret is empty");
    }
    Ok(Key { name: name.trim_end_matches('.').to_ascii_lowercase(), secret })
}

/// RFC 4648 4.
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let mut out = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for b in digits.bytes() {
        let digit = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    text.len().is_multiple_of(4).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_bind_writes_it() {
        let text = "# made today\nkey \"Update.Key.\" {\n\talgorithm hmac-sha256;\n\tsecret \"Zm9vYg==\"; // x\n};\n";
        let key = parse(text).unwrap();
        assert_eq!((key.name.as_str(), key.secret.as_slice()), ("update.key", &b"foob"[..]));
        assert!(!format!("{key:?}").contains("102"), "the secret is not shown");
        let wrong = |from: &str, to: &str| parse(&text.replace(from, to)).unwrap_err();
        assert!(wrong("hmac-sha256", "hmac-md5").contains("tsig-keygen"));
        assert!(wrong("Zm9vYg==", "Zm9vYg=").contains("base64"));
        assert!(wrong("Zm9vYg==", "Zm9-Yg==").contains("base64"));
        assert!(wrong("key", "kay").contains("no 'key"));
    }

    // RFC 4648 10
    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(coded).unwrap(), plain.as_bytes());
        }
    }
}
