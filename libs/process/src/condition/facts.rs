//! Conditions that are only names of facts: `a`, `!a`, `a && !b`. They need neither the CEL library nor its stack.

/// Words that CEL keeps for itself, and the names under which an expression finds its inputs.
const NO_FACTS: [&str; 27] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
    "context",
    "facts",
    "phases",
    "tasks",
    "artifacts",
    "approvals",
];

/// Longest name of a fact: 63 characters of a key and `_approved`.
const MAX_NAME: usize = 72;

/// A fact that must be true, or false where it is negated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Term {
    /// Its name.
    pub(super) fact: String,
    /// It must be false.
    pub(super) negated: bool,
}

/// The terms of `source`, if it is nothing but facts joined by `&&`.
pub(super) fn terms(source: &str) -> Option<Vec<Term>> {
    source.split("&&").map(term).collect()
}

fn term(text: &str) -> Option<Term> {
    let text = text.trim_matches([' ', '\t', '\n', '\r']);
    let (negated, name) = match text.strip_prefix('!') {
        Some(name) => (true, name.trim_start_matches(' ')),
        None => (false, text),
    };
    (is_fact(name) && !NO_FACTS.contains(&name)).then(|| Term { fact: name.to_owned(), negated })
}

/// Whether `name` can be that of a fact: `^[a-z][a-z0-9_]*$`.
pub(super) fn is_fact(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= MAX_NAME
        && bytes.next().is_some_and(|first| first.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_library() {
        let names = |source: &str| {
            terms(source).map(|terms| {
                terms
                    .iter()
                    .map(|term| format!("{}{}", if term.negated { "!" } else { "" }, term.fact))
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(names("a"), Some(vec!["a".to_owned()]));
        assert_eq!(
            names(" ! a &&b\n&& !c_1 "),
            Some(vec!["!a".to_owned(), "b".to_owned(), "!c_1".to_owned()])
        );
        for other in
            ["", "a &&", "a & b", "!!a", "(a)", "a || b", "true", "context", "a.b", "A", "1a", "a b", "_a"]
        {
            assert_eq!(names(other), None, "{other:?}");
        }
    }
}
