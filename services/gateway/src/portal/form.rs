//! The fields of a form, and where it came from.

use axum::http::{HeaderMap, header};

use super::fault::Fault;

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

/// Refuses a form that another site sent: the cookie alone does not say who pressed the button.
pub(super) fn same_site(headers: &HeaderMap) -> Result<(), Fault> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if matches!(text("sec-fetch-site"), Some("cross-site" | "same-site")) {
        return Err(Fault::Csrf);
    }
    let Some(origin) = text(header::ORIGIN.as_str()) else { return Ok(()) };
    let host = text(header::HOST.as_str()).unwrap_or_default();
    // With `Referrer-Policy: no-referrer` browsers send "null" for the page's own forms; Sec-Fetch-Site has spoken then.
    let ours = origin == "null" && text("sec-fetch-site") == Some("same-origin");
    let same = origin.split_once("://").is_some_and(|(_, authority)| authority == host);
    if ours || same { Ok(()) } else { Err(Fault::Csrf) }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_pages_own_forms_count() {
        let check = |pairs: &[(&'static str, &'static str)], good: bool| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            assert_eq!(same_site(&headers).is_ok(), good, "{pairs:?}");
        };
        check(&[("host", "127.0.0.1:7460")], true);
        check(&[("host", "127.0.0.1:7460"), ("origin", "http://127.0.0.1:7460")], true);
        check(&[("host", "a.example"), ("origin", "null"), ("sec-fetch-site", "same-origin")], true);
        check(&[("host", "a.example"), ("origin", "null")], false);
        check(&[("host", "a.example"), ("origin", "https://b.example")], false);
        check(&[("host", "a.example"), ("sec-fetch-site", "cross-site")], false);
    }

    #[test]
    fn remarks_that_say_nothing_are_left_out() {
        let fields =
            vec![("remark.a".to_owned(), " \r\n".to_owned()), ("remark.b".to_owned(), "x\r\ny ".to_owned())];
        assert_eq!(remarks(&fields), vec![("b".to_owned(), "x\ny".to_owned())]);
    }
}
