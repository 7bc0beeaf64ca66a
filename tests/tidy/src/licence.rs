//! Licence expressions, as SPDX writes them: `MIT OR (Apache-2.0 WITH LLVM-exception AND Unicode-3.0)`.
//!
//! Old packages write `MIT/Apache-2.0` for `OR`. What cannot be read is refused, not guessed.

/// Licences that ask for no more than their text and a name to be kept.
const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    // Covers data: the list of certificate authorities.
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Exceptions that only widen what a licence allows.
const EXCEPTIONS: [&str; 1] = ["LLVM-exception"];

/// May we ship what is under this expression? An error says what could not be read.
pub(crate) fn is_allowed(expression: &str) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, at: 0 };
    let answer = parser.either()?;
    if parser.at == words.len() {
        Ok(answer)
    } else {
        Err(format!("\"{}\" is one word too many", words[parser.at]))
    }
}

struct Parser<'a> {
    words: &'a [&'a str],
    at: usize,
}

impl<'a> Parser<'a> {
    fn either(&mut self) -> Result<bool, String> {
        let mut answer = self.both()?;
        while self.takes("OR") {
            answer |= self.both()?;
        }
        Ok(answer)
    }

    fn both(&mut self) -> Result<bool, String> {
        let mut answer = self.one()?;
        while self.takes("AND") {
            answer &= self.one()?;
        }
        Ok(answer)
    }

    fn one(&mut self) -> Result<bool, String> {
        if self.takes("(") {
            let answer = self.either()?;
            return if self.takes(")") { Ok(answer) } else { Err("a bracket is not closed".to_owned()) };
        }
        let mut answer = ALLOWED.contains(&self.name()?);
        if self.takes("WITH") {
            answer &= EXCEPTIONS.contains(&self.name()?);
        }
        Ok(answer)
    }

    fn name(&mut self) -> Result<&'a str, String> {
        match self.words.get(self.at) {
            Some(word) if !["AND", "OR", "WITH", "(", ")"].contains(word) => {
                self.at += 1;
                Ok(word)
            }
            other => Err(format!("expected the name of a licence, found {other:?}")),
        }
    }

    fn takes(&mut self, word: &str) -> bool {
        let takes = self.words.get(self.at) == Some(&word);
        if takes {
            self.at += 1;
        }
        takes
    }
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    for (expression, expected) in [
        ("MIT", Ok(true)),
        ("GPL-3.0-only", Ok(false)),
        ("GPL-3.0-only OR MIT", Ok(true)),
        ("GPL-3.0-only AND MIT", Ok(false)),
        ("GPL-3.0-only/MIT", Ok(true)),
        ("Apache-2.0 / MIT", Ok(true)),
        // AND binds more tightly than OR.
        ("MIT OR GPL-3.0-only AND MPL-2.0", Ok(true)),
        ("(MIT OR GPL-3.0-only) AND MPL-2.0", Ok(false)),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", Ok(true)),
        ("Apache-2.0 WITH LLVM-exception", Ok(true)),
        ("Apache-2.0 WITH Some-exception", Ok(false)),
        ("GPL-2.0-only WITH LLVM-exception", Ok(false)),
        ("mit", Ok(false)),
        ("", Err(())),
        ("MIT OR", Err(())),
        ("(MIT", Err(())),
        ("MIT Apache-2.0", Err(())),
        ("MIT)", Err(())),
        ("AND MIT", Err(())),
    ] {
        assert_eq!(is_allowed(expression).map_err(drop), expected, "{expression}");
    }
}
