//! A JSON list, cut into its values.
//!
//! Owns: where a value of a list begins and ends, and its line; that a file is either a list or has a value a line. Never: looks at what a
//! value is.

use std::io::{self, BufRead};

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// A list that is being read, behind its opening bracket.
#[derive(Debug)]
pub(super) struct JsonList {
    /// Lines that have ended so far.
    lines: u64,
    ended: bool,
}

/// A value as it is written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct JsonValue {
    /// Where it begins, counted from 1.
    pub line: u64,
    pub bytes: Vec<u8>,
    /// Whether it ends, and is in its list: what is cut off does not, what stands behind a list is not.
    pub whole: bool,
}

impl JsonList {
    /// Begins with the list that `reader` is at, whose bracket is taken from it; `None`, and nothing is taken, where it is not at one.
    ///
    /// # Errors
    /// Those of `reader`.
    pub fn begin(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let there = reader.fill_buf()?;
        let mark = if there.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        let Some(at) = there.iter().skip(mark).position(|byte| !byte.is_ascii_whitespace()) else {
            return Ok(None);
        };
        let before = &there[..mark + at];
        let lines = before.iter().filter(|&&byte| byte == b'\n').count() as u64;
        if there[mark + at] != b'[' {
            return Ok(None);
        }
        reader.consume(mark + at + 1);
        Ok(Some(Self { lines, ended: false }))
    }

    /// The next value; `None` behind the list's end.
    ///
    /// # Errors
    /// Those of `reader`.
    pub fn next(&mut self, reader: &mut impl BufRead) -> io::Result<Option<JsonValue>> {
        let mut value = JsonValue { line: 0, bytes: Vec::new(), whole: false };
        let mut nesting = Nesting::default();
        loop {
            let there = reader.fill_buf()?;
            let Some(&first) = there.first() else {
                // The end of the file before that of the list, which is told once.
                let cut_off = !std::mem::replace(&mut self.ended, true);
                value.line = if value.bytes.is_empty() { self.lines + 1 } else { value.line };
                return Ok((cut_off || !value.bytes.is_empty()).then_some(value));
            };
            if !self.ended && nesting.is_outside() && (first == b',' || first == b']') {
                reader.consume(1);
                self.ended = first == b']';
                // Nothing between two commas is no value.
                if !value.bytes.is_empty() {
                    return Ok(Some(JsonValue { whole: true, ..value }));
                }
                continue;
            }
            reader.consume(1);
            self.lines += u64::from(first == b'\n');
            if value.bytes.is_empty() {
                if first.is_ascii_whitespace() {
                    continue;
                }
                value = JsonValue { line: self.lines + 1, bytes: Vec::new(), whole: false };
            }
            nesting.see(first);
            value.bytes.push(first);
        }
    }
}

/// How deep a byte is in objects, lists and quotes.
#[derive(Debug, Default)]
struct Nesting {
    depth: usize,
    quoted: bool,
    escaped: bool,
}

impl Nesting {
    fn is_outside(&self) -> bool {
        self.depth == 0 && !self.quoted
    }

    fn see(&mut self, byte: u8) {
        match byte {
            _ if std::mem::take(&mut self.escaped) => {}
            b'\\' if self.quoted => self.escaped = true,
            b'"' => self.quoted = !self.quoted,
            b'{' | b'[' if !self.quoted => self.depth += 1,
            b'}' | b']' if !self.quoted => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

/// The values of a file of JSON: those of the list that it is, or else its lines that are not blank.
#[derive(Debug)]
pub(super) struct JsonValues<'a> {
    rest: &'a [u8],
    list: Option<JsonList>,
    lines: u64,
}

impl<'a> JsonValues<'a> {
    /// Those of `content`.
    pub fn of(content: &'a str) -> Self {
        let mut rest = content.as_bytes();
        // Memory is read without errors.
        let list = JsonList::begin(&mut rest).ok().flatten();
        Self { rest, list, lines: 0 }
    }

    /// Bytes that are still to come.
    pub fn left(&self) -> usize {
        self.rest.len()
    }
}

impl Iterator for JsonValues<'_> {
    type Item = JsonValue;

    fn next(&mut self) -> Option<JsonValue> {
        if let Some(list) = &mut self.list {
            return list.next(&mut self.rest).ok().flatten();
        }
        loop {
            let end = self.rest.iter().position(|&byte| byte == b'\n').map_or(self.rest.len(), |at| at + 1);
            let (line, rest) = self.rest.split_at(end);
            if line.is_empty() {
                return None;
            }
            self.rest = rest;
            self.lines += 1;
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some(JsonValue { line: self.lines, bytes: line.to_vec(), whole: true });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(content: &str) -> Vec<(u64, String, bool)> {
        let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
        JsonValues::of(content).map(|JsonValue { line, bytes, whole }| (line, text(bytes), whole)).collect()
    }

    fn value(line: u64, text: &str) -> (u64, String, bool) {
        (line, text.to_owned(), true)
    }

    #[test]
    fn a_list_is_cut_into_its_values_however_it_is_laid_out() {
        let two = [value(1, "{\"a\":1}"), value(1, "{\"b\":[2,{}]}")];
        assert_eq!(values("[{\"a\":1},{\"b\":[2,{}]}]"), two);
        assert_eq!(values("\u{feff}\n [\n  {\n  \"a\": \"]},\\\"\"\n  },\n\n  3]\n").len(), 2);
        let laid_out = values("\n[\n  {\n  \"a\": \"]},\\\"\"\n  },\n\n  3]\n");
        assert_eq!(laid_out, [value(3, "{\n  \"a\": \"]},\\\"\"\n  }"), value(7, "3")]);
        assert_eq!(values("[]"), []);
        assert_eq!(values("{\"a\":1}\n\n{\"b\":2}"), [value(1, "{\"a\":1}"), value(3, "{\"b\":2}")]);
        assert_eq!(values(""), []);
    }

    #[test]
    fn what_is_cut_off_or_stands_behind_is_not_whole() {
        assert_eq!(values("[{\"a\":1},\n{\"b\""), [value(1, "{\"a\":1}"), (2, "{\"b\"".into(), false)]);
        assert_eq!(values("[1,\n"), [value(1, "1"), (2, String::new(), false)]);
        assert_eq!(values("[1]\n\n[2]"), [value(1, "1"), (3, "[2]".into(), false)]);
    }
}
