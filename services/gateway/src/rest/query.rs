//! Text of the address: percent-encoding, and the parameters after the question mark.

use crate::refusal::Refused;

/// Decodes one segment of a path.
pub(crate) fn segment(field: &str, text: &str) -> Result<String, Refused> {
    decode(field, text, false)
}

/// Decodes the parameters of a query, in their order.
pub(crate) fn parameters(query: &str) -> Result<Vec<(String, String)>, Refused> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode("query", name, true)?;
            let value = decode(&name, value, true)?;
            Ok((name, value))
        })
        .collect()
}

fn decode(field: &str, text: &str, plus_is_blank: bool) -> Result<String, Refused> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' if plus_is_blank => b' ',
            b'%' => {
                let digits = [rest.next(), rest.next()].map(|digit| digit.and_then(hex));
                let [Some(high), Some(low)] = digits else {
                    return Err(Refused::parameter(
                        "INVALID_TEXT",
                        field,
                        "has a percent sign without two digits",
                    ));
                };
                high * 16 + low
            }
            other => other,
        });
    }
    match String::from_utf8(bytes) {
        Ok(text) if text.contains('\0') => {
            Err(Refused::parameter("INVALID_TEXT", field, "must not contain NUL"))
        }
        Ok(text) => Ok(text),
        Err(_) => Err(Refused::parameter("INVALID_TEXT", field, "must be UTF-8")),
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_decoded_strictly() {
        assert_eq!(segment("key", "a%2Fb+c").unwrap(), "a/b+c");
        let query = parameters("a=1&&b=x+y%21&c&a=2").unwrap();
        let expected = [("a", "1"), ("b", "x y!"), ("c", ""), ("a", "2")];
        assert_eq!(query, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        for bad in ["%", "%2", "%zz", "%ff", "%00", "%+1"] {
            assert!(segment("key", bad).is_err(), "{bad}");
            assert!(parameters(&format!("a={bad}")).is_err(), "{bad}");
        }
    }
}
