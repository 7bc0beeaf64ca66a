//! Semantic versions as text that sorts by its bytes the way versions sort by precedence (semver.org 2.0.0, 11), so that
//! a database can find the newest at the end of an index.

/// The text of a version; of one that is no semantic version, a text that sorts before all others.
pub fn precedence(version: &str) -> String {
    let Ok(version) = semver::Version::parse(version) else { return String::new() };
    let mut text = String::new();
    for number in [version.major, version.minor, version.patch] {
        push_number(&mut text, &number.to_string());
    }
    if version.pre.is_empty() {
        // After everything that a pre-release can begin with.
        text.push('~');
        return text;
    }
    for (index, identifier) in version.pre.split('.').enumerate() {
        if index > 0 {
            text.push('!');
        }
        // Numbers come before words.
        if identifier.bytes().all(|byte| byte.is_ascii_digit()) {
            text.push('0');
            push_number(&mut text, identifier);
        } else {
            text.push('1');
            text.push_str(identifier);
        }
    }
    // The end sorts before a further identifier, and both sort before all that an identifier is made of.
    text.push(' ');
    text
}

/// A number with its length before it: longer numbers without leading zeros are larger.
fn push_number(text: &mut String, digits: &str) {
    let length = digits.len();
    // At most 64: two digits.
    text.extend(
        [length / 10, length % 10]
            .map(|digit| char::from(b'0' + u8::try_from(digit % 10).unwrap_or_default())),
    );
    text.push_str(digits);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_order_of_the_specification() {
        let sorted = [
            "0.0.9",
            "0.9.0",
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-beta-x",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.2.0",
            "1.10.0",
            "2.0.0",
            "10.0.0",
            "18446744073709551615.0.0",
        ];
        for pair in sorted.windows(2) {
            assert!(precedence(pair[0]) < precedence(pair[1]), "{pair:?}");
        }
        assert_eq!(precedence("1.0.0+a"), precedence("1.0.0+b"), "builds have no precedence");
    }

    proptest! {
        #[test]
        fn texts_sort_as_versions_do(
            left in "(0|[1-9][0-9]{0,3})\\.(0|[1-9][0-9]?)\\.(0|[1-9])(-(0|[1-9][0-9]{0,2}|[a-c-]{1,2}[0-9a-c-]?)(\\.(0|[1-9][0-9]?|[a-c-]{1,2})){0,2})?",
            right in "(0|[1-9][0-9]{0,3})\\.(0|[1-9][0-9]?)\\.(0|[1-9])(-(0|[1-9][0-9]{0,2}|[a-c-]{1,2}[0-9a-c-]?)(\\.(0|[1-9][0-9]?|[a-c-]{1,2})){0,2})?",
            same_core in any::<bool>(),
        ) {
            // Most random pairs differ in their numbers; half of them are made to differ after those.
            let right = if same_core {
                let core = left.split('-').next().unwrap();
                right.find('-').map_or(core.to_owned(), |at| format!("{core}{}", &right[at..]))
            } else {
                right
            };
            let (a, b) = (semver::Version::parse(&left).unwrap(), semver::Version::parse(&right).unwrap());
            prop_assert_eq!(precedence(&left).cmp(&precedence(&right)), a.cmp_precedence(&b), "{} {}", left, right);
        }
    }
}
