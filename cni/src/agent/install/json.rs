//! Where things are in a JSON text, so that one thing can be changed and every other byte stays as its owner wrote it.
//! Only for texts that a real parser has accepted.

use std::ops::Range;

/// Where the elements of the top-level array under `key` are; `None` when there is no such array. Of several the last
/// counts, as for the parsers of container runtimes.
pub(super) fn elements(text: &str, key: &str) -> Option<Vec<Range<usize>>> {
    let mut scan = Scan { bytes: text.as_bytes(), at: 0 };
    scan.expect(b'{')?;
    let mut found = None;
    if scan.peek()? == b'}' {
        return None;
    }
    loop {
        let name = scan.value()?;
        scan.expect(b':')?;
        let value = scan.value()?;
        let name: String = serde_json::from_str(text.get(name)?).ok()?;
        if name == key {
            found = Some(value);
        }
        match scan.next()? {
            b',' => {}
            _ => break,
        }
    }
    elements_of(text, found?)
}

fn elements_of(text: &str, array: Range<usize>) -> Option<Vec<Range<usize>>> {
    let mut scan = Scan { bytes: text.as_bytes(), at: array.start };
    scan.expect(b'[')?;
    let mut elements = Vec::new();
    if scan.peek()? == b']' {
        return Some(elements);
    }
    loop {
        elements.push(scan.value()?);
        match scan.next()? {
            b',' => {}
            _ => return Some(elements),
        }
    }
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    /// The next byte that is no white space, without taking it.
    fn peek(&mut self) -> Option<u8> {
        while self.bytes.get(self.at)?.is_ascii_whitespace() {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, wanted: u8) -> Option<()> {
        (self.next()? == wanted).then_some(())
    }

    /// Takes a whole value.
    fn value(&mut self) -> Option<Range<usize>> {
        let first = self.peek()?;
        let start = self.at;
        match first {
            b'"' => self.string()?,
            b'{' | b'[' => self.nested()?,
            _ => {
                let end = |byte: &u8| byte.is_ascii_whitespace() || b",]}".contains(byte);
                while self.bytes.get(self.at).is_some_and(|byte| !end(byte)) {
                    self.at += 1;
                }
            }
        }
        Some(start..self.at)
    }

    fn string(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            match self.bytes.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(())
    }

    fn nested(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.bytes.get(self.at)? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<Vec<&str>> {
        serde_json::from_str::<serde_json::Value>(text).unwrap();
        Some(elements(text, "plugins")?.into_iter().map(|range| &text[range]).collect())
    }

    #[test]
    fn elements_are_found_whatever_stands_around_them() {
        assert_eq!(found(r#"{"plugins":[]}"#), Some(vec![]));
        assert_eq!(found(r#" { "a" : 1.5e3 , "plugins" : [ 1 , "x" ] } "#), Some(vec!["1", "\"x\""]));
        let tricky =
            r#"{"a":{"plugins":[9]},"b":"\"plugins\":[8]\\","plu\u0067ins":[{"c":"]}\\\""},[[]],null,true]}"#;
        assert_eq!(found(tricky), Some(vec![r#"{"c":"]}\\\""}"#, "[[]]", "null", "true"]));
        assert_eq!(found("{\n\t\"plugins\": [\n\t\t{\"x\": \"ü\"}\n\t]\n}\n"), Some(vec!["{\"x\": \"ü\"}"]));
    }

    #[test]
    fn the_last_of_several_counts_and_what_is_no_array_is_none() {
        assert_eq!(found(r#"{"plugins":[1],"plugins":[2]}"#), Some(vec!["2"]));
        assert_eq!(found(r#"{"plugins":[1],"plugins":{}}"#), None);
        assert_eq!(found(r#"{"plugins":null}"#), None);
        assert_eq!(found("{}"), None);
        assert_eq!(found("[1]"), None);
        assert_eq!(found("7"), None);
    }
}
