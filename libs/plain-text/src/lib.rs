//! Text that says what it seems to say. Some characters turn the reading direction of those after them, so that a line
//! can show other words than the ones that are written; whoever decides by what is shown must not be led by them.
//!
//! How long a text may be, and which control characters it may hold, is for whoever takes it in.

/// Whether a character turns the direction of what follows: embeddings, overrides and isolates, and the ends of them.
/// Marks such as U+200E are none of these: they turn nothing but themselves.
pub const fn is_turning(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text as it may be shown: a replacement character stands where one would turn the direction.
pub fn shown(text: &str) -> String {
    text.chars().map(|character| if is_turning(character) { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_be_turned_around() {
        assert_eq!(shown("pay\u{202e}lanif\u{202c} now"), "pay\u{fffd}lanif\u{fffd} now");
        assert_eq!(shown("\u{2066}a\u{2069}"), "\u{fffd}a\u{fffd}");
    }

    #[test]
    fn honest_text_stays_as_it_is() {
        for text in ["", "Grüße\n\t\"x\"", "שלום", "مرحبا\u{200f}", "👩\u{200d}💻"] {
            assert_eq!(shown(text), text);
        }
    }
}
