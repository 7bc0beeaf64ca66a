//! The fields of a form. The guard at the door has seen to it that no other site sent it.

/// The fields of a form, in the order sent.
pub(super) type Fields = Vec<(String, String)>;

/// The first value of a field; empty where there is none.
pub(super) fn field<'a>(fields: &'a Fields, name: &str) -> &'a str {
    fields.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
}

/// What was written about single artifacts: the fields `remark.<key>` that say something.
pub(super) fn remarks(fields: &Fields) -> Vec<(String, String)> {
    fields
        .iter()
        .filter_map(|(key, value)| {
            let artifact = key.strip_prefix("remark.")?;
            let text = lines(value);
            (!text.is_empty()).then(|| (artifact.to_owned(), text))
        })
        .collect()
}

/// A text as it was meant: browsers send CR LF.
pub(super) fn lines(text: &str) -> String {
    text.replace("\r\n", "\n").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remarks_that_say_nothing_are_left_out() {
        let fields =
            vec![("remark.a".to_owned(), " \r\n".to_owned()), ("remark.b".to_owned(), "x\r\ny ".to_owned())];
        assert_eq!(remarks(&fields), vec![("b".to_owned(), "x\ny".to_owned())]);
    }
}
