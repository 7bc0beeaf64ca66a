//! Rust source as the rules read it: code without comments and strings, and the strings by themselves.
//!
//! A scanner of some hundred lines instead of a parser: it must know where comments and strings end, and nothing else.

/// A source file taken apart. `code` is as long as the file: what was left out is blank, so that positions agree.
pub(crate) struct Source {
    /// The code, with comments and the contents of strings blanked.
    pub(crate) code: String,
    /// The contents of the strings, with the position of each.
    pub(crate) strings: Vec<(usize, String)>,
}

impl Source {
    /// Takes a file apart.
    pub(crate) fn new(text: &str) -> Self {
        Scanner { text, at: 0, code: String::with_capacity(text.len()), strings: Vec::new() }.scan()
    }

    /// The same without what is compiled for tests only.
    pub(crate) fn without_tests(mut self) -> Self {
        const MARK: &str = "#[cfg(test)]";
        while let Some(start) = self.code.find(MARK) {
            let end = item_end(&self.code, start + MARK.len());
            let blank = " ".repeat(end - start);
            self.code.replace_range(start..end, &blank);
            self.strings.retain(|(at, _)| !(start..end).contains(at));
        }
        self
    }

    /// The words of the code: identifiers and keywords, with their positions.
    pub(crate) fn words(&self) -> Vec<(usize, &str)> {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let mut words = Vec::new();
        let mut start = None;
        for (at, c) in self.code.char_indices().chain([(self.code.len(), ' ')]) {
            match (is_word(c), start) {
                (true, None) => start = Some(at),
                (false, Some(from)) => {
                    words.push((from, &self.code[from..at]));
                    start = None;
                }
                (true, Some(_)) | (false, None) => {}
            }
        }
        words
    }

    /// The first segments of the paths in the code: `serde` of `serde::de::Error`.
    pub(crate) fn path_roots(&self) -> Vec<(usize, &str)> {
        self.words()
            .into_iter()
            .filter(|(at, word)| {
                let after = self.code[at + word.len()..].trim_start();
                let before = self.code[..*at].trim_end();
                let names_crate =
                    before.ends_with("use") && (after.starts_with(';') || after.starts_with("as "));
                (after.starts_with("::") || names_crate) && !before.ends_with("::")
            })
            .collect()
    }

    /// The strings between two positions.
    pub(crate) fn strings_in(&self, from: usize, to: usize) -> impl Iterator<Item = &str> {
        self.strings.iter().filter(move |(at, _)| (from..to).contains(at)).map(|(_, text)| text.as_str())
    }
}

/// Where the bracketed text ends that opens at or after `from`, or the statement that comes first.
pub(crate) fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code[from..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return from + at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return from + at + 1,
            _ => {}
        }
    }
    code.len()
}

/// The line of a position, counted from one.
pub(crate) fn line(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    code: String,
    strings: Vec<(usize, String)>,
}

impl Scanner<'_> {
    fn scan(mut self) -> Source {
        while let Some(c) = self.rest().chars().next() {
            let rest = self.rest();
            if rest.starts_with("//") {
                let length = rest.find('\n').unwrap_or(rest.len());
                self.blank(length);
            } else if rest.starts_with("/*") {
                let length = block_comment(rest);
                self.blank(length);
            } else if let Some(hashes) = raw_string(rest).filter(|_| !self.inside_word()) {
                self.raw(hashes);
            } else if c == '"' {
                self.string();
            } else if c == '\'' {
                let length = character(rest);
                self.blank(length);
            } else {
                self.code.push(c);
                self.at += c.len_utf8();
            }
        }
        Source { code: self.code, strings: self.strings }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn inside_word(&self) -> bool {
        self.code.ends_with(|c: char| c.is_alphanumeric() || c == '_')
    }

    fn blank(&mut self, length: usize) {
        let blanked: String = self.text[self.at..self.at + length]
            .bytes()
            .map(|b| if b == b'\n' { '\n' } else { ' ' })
            .collect();
        self.code.push_str(&blanked);
        self.at += length;
    }

    fn string(&mut self) {
        let mut length = 1;
        let bytes = self.rest().as_bytes();
        while length < bytes.len() && bytes[length] != b'"' {
            length += if bytes[length] == b'\\' { 2 } else { 1 };
        }
        let length = (length + 1).min(bytes.len());
        let contents = self.rest()[1..length - 1].to_owned();
        self.strings.push((self.at, contents));
        self.blank(length);
    }

    fn raw(&mut self, hashes: usize) {
        let open = self.rest().find('"').unwrap_or(0) + 1;
        let close = format!("\"{}", "#".repeat(hashes));
        let length = self.rest()[open..].find(&close).unwrap_or(self.rest().len() - open);
        let contents = self.rest()[open..open + length].to_owned();
        self.strings.push((self.at, contents));
        let whole = (open + length + close.len()).min(self.rest().len());
        self.blank(whole);
    }
}

/// The number of hashes of a raw string that begins here.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of a character in quotes, or 1 for the tick of a lifetime.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => rest[3..].find('\'').map_or(1, |at| at + 4),
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

#[test]
fn a_file_is_taken_apart() {
    let source = Source::new(
        "use a::B; // not::this \"nor this\"\nfn f<'a>() { g(\"it's \\\" x::y\", 'c', '\\'', r#\"raw \"inner\" z\"#) } /* q::r /* s */ */ use t as u;",
    );
    let strings: Vec<&str> = source.strings.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(strings, ["it's \\\" x::y", "raw \"inner\" z"]);
    let roots: Vec<&str> = source.path_roots().into_iter().map(|(_, word)| word).collect();
    assert_eq!(roots, ["a", "t"]);
    assert_eq!(source.code.matches('\n').count(), 1);
}

#[test]
fn what_is_for_tests_is_left_out() {
    let text = "fn a() { b::c(\"keep\") }\n#[cfg(test)]\nmod tests { fn d() { e::f(\"drop\") } }\n#[cfg(test)]\nmod g;\nfn h() { i::j() }";
    let source = Source::new(text).without_tests();
    let roots: Vec<&str> = source.path_roots().into_iter().map(|(_, word)| word).collect();
    assert_eq!(roots, ["b", "i"]);
    assert_eq!(source.strings_in(0, text.len()).collect::<Vec<_>>(), ["keep"]);
}
