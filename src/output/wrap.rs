//! Running text for a terminal, piece by piece: lines break between words, not where the terminal ends.
//!
//! Owns: where a line breaks. Never: anything that goes into a file or a pipe, which gets the text as it is.

use console::measure_text_width;

/// Text on its way to a terminal of so many columns.
pub struct Wrapped {
    columns: usize,
    /// The column that comes next.
    at: usize,
    /// Spaces in front of the word; they fall away where the line breaks.
    spaces: String,
    /// A word that may go on with the next piece.
    word: String,
}

impl Wrapped {
    /// Nothing yet.
    pub fn new(columns: usize) -> Self {
        Self { columns: columns.max(1), at: 0, spaces: String::new(), word: String::new() }
    }

    /// What can be written once this piece is there, too.
    pub fn push(&mut self, piece: &str) -> String {
        let mut ready = String::new();
        for c in piece.chars() {
            if c == '\n' {
                self.end_word(&mut ready);
                self.spaces.clear();
                ready.push(c);
                self.at = 0;
            } else if c.is_whitespace() {
                self.end_word(&mut ready);
                self.spaces.push(c);
            } else {
                // Scripts of wide characters break anywhere.
                let wide = measure_text_width(c.encode_utf8(&mut [0; 4])) > 1;
                if wide {
                    self.end_word(&mut ready);
                }
                self.word.push(c);
                if wide || measure_text_width(&self.word) >= self.columns {
                    self.end_word(&mut ready);
                }
            }
        }
        ready
    }

    /// The rest.
    pub fn finish(mut self) -> String {
        let mut ready = String::new();
        self.end_word(&mut ready);
        ready + &self.spaces
    }

    fn end_word(&mut self, ready: &mut String) {
        if self.word.is_empty() {
            return;
        }
        let (spaces, word) = (measure_text_width(&self.spaces), measure_text_width(&self.word));
        if self.at > 0 && self.at + spaces + word > self.columns {
            ready.push('\n');
            self.at = word;
        } else {
            ready.push_str(&self.spaces);
            self.at += spaces + word;
        }
        ready.push_str(&self.word);
        self.spaces.clear();
        self.word.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(pieces: &[&str], columns: usize) -> String {
        let mut lines = Wrapped::new(columns);
        let mut text: String = pieces.iter().map(|piece| lines.push(piece)).collect();
        text += &lines.finish();
        text
    }

    #[test]
    fn lines_break_between_words_however_the_text_comes() {
        let text = "the old harbour guards\n  a river .";
        let expected = "the old\nharbour\nguards\n  a river\n.";
        assert_eq!(wrapped(&[text], 9), expected);
        let letters: Vec<String> = text.chars().map(String::from).collect();
        assert_eq!(wrapped(&letters.iter().map(String::as_str).collect::<Vec<_>>(), 9), expected);
        assert_eq!(wrapped(&[text], 80), text);
        assert_eq!(wrapped(&["a  b ", " c "], 80), "a  b  c ");
    }

    #[test]
    fn what_has_no_words_breaks_at_the_edge() {
        assert_eq!(wrapped(&["ab ", "abcdefghijkl", " c"], 5), "ab\nabcde\nfghij\nkl c");
        assert_eq!(wrapped(&["\u{6d77}\u{6c34}\u{5c71}"], 4), "\u{6d77}\u{6c34}\n\u{5c71}");
    }
}
