//! Enum values as lower-case words: the part of their name after the enum's own.

use prost_reflect::{EnumDescriptor, EnumValueDescriptor};

/// Returns the word of a value: `retry_with_escalation` for `TASK_FAILURE_ACTION_RETRY_WITH_ESCALATION`.
pub fn word(value: &EnumValueDescriptor) -> String {
    let prefix = prefix(value.parent_enum().name());
    value.name().strip_prefix(&prefix).unwrap_or(value.name()).to_lowercase()
}

/// Returns the words that may be written, in the order of the enum. The value zero means "not set" and has none.
pub fn words(descriptor: &EnumDescriptor) -> Vec<String> {
    descriptor.values().filter(|value| value.number() != 0).map(|value| word(&value)).collect()
}

pub(crate) fn number(descriptor: &EnumDescriptor, text: &str) -> Option<i32> {
    descriptor.values().find(|value| value.number() != 0 && word(value) == text).map(|value| value.number())
}

/// `TaskFailureAction` becomes `TASK_FAILURE_ACTION_`.
fn prefix(name: &str) -> String {
    let mut prefix = String::with_capacity(name.len() + 4);
    let mut previous_is_lower = false;
    for character in name.chars() {
        if character.is_ascii_uppercase() && previous_is_lower {
            prefix.push('_');
        }
        previous_is_lower = !character.is_ascii_uppercase();
        prefix.push(character.to_ascii_uppercase());
    }
    prefix.push('_');
    prefix
}
