//! Reads the portal's pages as a browser without JavaScript would: links and forms.

/// A form of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Form {
    /// Path that it is sent to.
    pub(super) action: String,
    /// Hidden fields.
    pub(super) hidden: Vec<(String, String)>,
}

/// The forms of a page.
pub(super) fn forms(html: &str) -> Vec<Form> {
    html.split("<form ")
        .skip(1)
        .filter_map(|rest| {
            let form = rest.split("</form>").next()?;
            let action = attribute(form.split('>').next()?, "action")?;
            let hidden = form
                .split("<input ")
                .skip(1)
                .filter_map(|input| input.split('>').next())
                .filter(|input| input.contains("type=\"hidden\""))
                .filter_map(|input| Some((attribute(input, "name")?, attribute(input, "value")?)))
                .collect();
            Some(Form { action, hidden })
        })
        .collect()
}

/// The links of a part of a page, in order.
pub(super) fn links(html: &str) -> Vec<String> {
    html.split("<a ").skip(1).filter_map(|rest| attribute(rest.split('>').next()?, "href")).collect()
}

/// The text between two marks; empty where they are not there.
pub(super) fn between<'a>(html: &'a str, start: &str, end: &str) -> &'a str {
    let rest = html.split_once(start).map_or("", |(_, rest)| rest);
    rest.split_once(end).map_or(rest, |(part, _)| part)
}

/// The text of the first heading.
pub(super) fn heading(html: &str) -> String {
    unescape(between(html, "<h1>", "</h1>").trim())
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let start = tag.find(&format!("{name}=\""))? + name.len() + 2;
    let value = tag.get(start..)?.split('"').next()?;
    Some(unescape(value))
}

fn unescape(text: &str) -> String {
    let named = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    named
        .replace("&#34;", "\"")
        .replace("&#39;", "'")
        .replace("&#60;", "<")
        .replace("&#62;", ">")
        .replace("&#38;", "&")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_as_a_browser_would() {
        let html = r#"<h1>A &amp; B</h1><a href="/x">y</a>
            <form method="post" action="/external/lnk-1/approvals/apr-1/review">
            <input type="hidden" name="digest" value="sha256:a&#34;b"><input type="radio" name="decision" value="approve">
            </form>"#;
        let expected = Form {
            action: "/external/lnk-1/approvals/apr-1/review".into(),
            hidden: vec![("digest".into(), "sha256:a\"b".into())],
        };
        assert_eq!(forms(html), vec![expected]);
        assert_eq!(links(html), vec!["/x"]);
        assert_eq!(heading(html), "A & B");
    }
}
