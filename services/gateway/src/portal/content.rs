//! Artifacts as pages. What agents stored is never trusted: every text is escaped, nothing of it is live.

use std::collections::BTreeMap;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use phasegate_plain_text::{is_turning, shown};
use phasegate_proto::approval::v1::ReviewedArtifact;
use phasegate_proto::artifact::v1::Artifact;
use serde_json::Value;

use super::fault::{Fault, render};
use super::form::{Fields, field};
use super::page::{ArtifactPage, Reviewed};
use super::session::Visitor;
use super::view;
use super::when::When;
use super::{Portal, Shared};

/// Values that one page shows; what is more is in the download.
const VALUES_MAX: usize = 2_000;
/// Differences that one page shows.
const CHANGES_MAX: usize = 200;
/// How deep values are laid out.
const DEPTH_MAX: usize = 24;

/// One difference between two versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// Where, as a JSON Pointer.
    pub(super) path: String,
    /// What was there.
    pub(super) before: Option<String>,
    /// What is there.
    pub(super) after: Option<String>,
}

/// Shows one artifact.
pub(super) async fn show(
    State(portal): State<Shared>,
    Path((link, key)): Path<(String, String)>,
    Query(query): Query<Fields>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let visitor = portal.visitor(&link, &headers, false).await?;
    let version = field(&query, "version").parse().unwrap_or(0);
    let (artifact, newest, instance) = tokio::try_join!(
        portal.artifact(&visitor, &key, version),
        portal.artifact(&visitor, &key, 0),
        portal.instance(&visitor),
    )?;
    let now = portal.context.clock.now();
    let page = ArtifactPage {
        base: visitor.base.clone(),
        instance_name: instance.name,
        html: html(&artifact)?,
        at: When::from_proto(artifact.created_at.as_ref(), now).unwrap_or_else(|| When::new(now, now)),
        author: view::actor(artifact.created_by.as_ref()),
        key: artifact.key,
        version: artifact.version,
        newest: newest.version,
        kind: artifact.r#type,
        digest: artifact.digest,
    };
    Ok(render(StatusCode::OK, &page))
}

/// Hands one artifact out as a file, which no browser opens as a page.
pub(super) async fn download(
    State(portal): State<Shared>,
    Path((link, key)): Path<(String, String)>,
    Query(query): Query<Fields>,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let visitor = portal.visitor(&link, &headers, false).await?;
    let version = field(&query, "version").parse().unwrap_or(0);
    let artifact = portal.artifact(&visitor, &key, version).await?;
    let (bytes, extension) = match json(&artifact)? {
        Some(value) => (format!("{value:#}").into_bytes(), "json"),
        None => (artifact.raw_content, "bin"),
    };
    let name = format!("attachment; filename=\"{}-v{}.{extension}\"", artifact.key, artifact.version);
    let disposition = HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("attachment"));
    let mut response = bytes.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(header::CONTENT_DISPOSITION, disposition);
    response
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    Ok(response)
}

/// An artifact under review, in the version that the request is bound to, with what has changed since the round before.
pub(super) async fn reviewed(
    portal: &Portal,
    visitor: &Visitor,
    bound: &ReviewedArtifact,
) -> Result<Reviewed, Fault> {
    let artifact = portal.artifact(visitor, &bound.key, bound.version).await?;
    let is_newer = bound.previous_version > 0 && bound.previous_version != bound.version;
    let changes = if is_newer {
        let before = portal.artifact(visitor, &bound.key, bound.previous_version).await?;
        match (json(&before)?, json(&artifact)?) {
            (Some(before), Some(after)) => changes(&before, &after),
            _ => Vec::new(),
        }
    } else {
        Vec::new()
    };
    Ok(Reviewed {
        key: bound.key.clone(),
        version: bound.version,
        previous: bound.previous_version,
        changed: is_newer,
        changes,
        html: html(&artifact)?,
        digest: bound.digest.clone(),
        remark: String::new(),
    })
}

fn json(artifact: &Artifact) -> Result<Option<Value>, Fault> {
    let Some(content) = &artifact.content else { return Ok(None) };
    let value = phasegate_proto_json::to_json(content, "google.protobuf.Value");
    value.map(Some).map_err(|_| Fault::BadForm)
}

/// An artifact's content as HTML in which every text is escaped.
pub(super) fn html(artifact: &Artifact) -> Result<String, Fault> {
    let mut out = String::new();
    if let Some(value) = json(artifact)? {
        let mut left = VALUES_MAX;
        write(&value, DEPTH_MAX, &mut left, &mut out);
        if left == 0 {
            out.push_str("<p class=\"meta\">There is more; download it to see all.</p>");
        }
    } else if let Ok(text) = std::str::from_utf8(&artifact.raw_content) {
        out.push_str("<pre class=\"text\">");
        escape(&text.chars().take(20_000).collect::<String>(), &mut out);
        out.push_str("</pre>");
    } else {
        out.push_str("<p class=\"meta\">A file. Download it to see it.</p>");
    }
    Ok(out)
}

/// Objects become definition lists, lists of objects with the same keys tables, other lists bullets.
fn write(value: &Value, depth: usize, left: &mut usize, out: &mut String) {
    *left = left.saturating_sub(1);
    if *left == 0 || depth == 0 {
        return;
    }
    match value {
        Value::Object(fields) if fields.is_empty() => out.push_str("<span class=\"meta\">empty</span>"),
        Value::Object(fields) => {
            out.push_str("<dl>");
            for (key, value) in fields {
                out.push_str("<dt>");
                escape(key, out);
                out.push_str("</dt><dd>");
                write(value, depth - 1, left, out);
                out.push_str("</dd>");
            }
            out.push_str("</dl>");
        }
        Value::Array(items) if items.is_empty() => out.push_str("<span class=\"meta\">none</span>"),
        Value::Array(items) => {
            if let Some(columns) = columns(items) {
                write_table(items, &columns, depth, left, out);
            } else {
                out.push_str("<ul>");
                for item in items {
                    out.push_str("<li>");
                    write(item, depth - 1, left, out);
                    out.push_str("</li>");
                }
                out.push_str("</ul>");
            }
        }
        Value::String(text) if text.contains('\n') => {
            out.push_str("<span class=\"text\">");
            escape(text, out);
            out.push_str("</span>");
        }
        Value::String(text) => escape(text, out),
        Value::Null => out.push_str("<span class=\"meta\">nothing</span>"),
        Value::Bool(_) | Value::Number(_) => escape(&value.to_string(), out),
    }
}

fn write_table(items: &[Value], columns: &[String], depth: usize, left: &mut usize, out: &mut String) {
    out.push_str("<table><thead><tr>");
    for column in columns {
        out.push_str("<th scope=\"col\">");
        escape(column, out);
        out.push_str("</th>");
    }
    out.push_str("</tr></thead><tbody>");
    for item in items {
        out.push_str("<tr>");
        for column in columns {
            out.push_str("<td>");
            write(&item[column.as_str()], depth - 1, left, out);
            out.push_str("</td>");
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table>");
}

/// The columns of a list of objects that have the same few keys.
fn columns(items: &[Value]) -> Option<Vec<String>> {
    let first: Vec<String> = items.first()?.as_object()?.keys().cloned().collect();
    let same = items.iter().all(|item| item.as_object().is_some_and(|item| item.keys().eq(first.iter())));
    (same && (1..=6).contains(&first.len()) && items.len() > 1).then_some(first)
}

fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            turning if is_turning(turning) => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
}

/// The leaves in which two contents differ, by path.
fn changes(before: &Value, after: &Value) -> Vec<Change> {
    let (mut old, mut new) = (BTreeMap::new(), BTreeMap::new());
    leaves(before, String::new(), DEPTH_MAX, &mut old);
    leaves(after, String::new(), DEPTH_MAX, &mut new);
    let mut paths: Vec<&String> = old.keys().chain(new.keys()).collect();
    paths.sort();
    paths.dedup();
    paths
        .into_iter()
        .filter(|path| old.get(*path) != new.get(*path))
        .take(CHANGES_MAX)
        .map(|path| Change {
            path: shown(path),
            before: old.get(path).map(|text| shown(text)),
            after: new.get(path).map(|text| shown(text)),
        })
        .collect()
}

fn leaves(value: &Value, path: String, depth: usize, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() && depth > 0 => {
            for (key, value) in fields {
                let key = key.replace('~', "~0").replace('/', "~1");
                leaves(value, format!("{path}/{key}"), depth - 1, out);
            }
        }
        Value::Array(items) if !items.is_empty() && depth > 0 => {
            for (index, value) in items.iter().enumerate() {
                leaves(value, format!("{path}/{index}"), depth - 1, out);
            }
        }
        Value::String(text) => {
            out.insert(path, text.clone());
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            out.insert(path, value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(value: &Value) -> String {
        let mut out = String::new();
        let mut left = VALUES_MAX;
        write(value, DEPTH_MAX, &mut left, &mut out);
        out
    }

    #[test]
    fn nothing_of_an_artifact_is_live() {
        for hostile in [
            "<script>alert(1)</script>",
            "\"><img src=x onerror=y>",
            "javascript:alert(1)",
            "</dd><a href=x>",
        ] {
            for value in
                [json!(hostile), json!({ hostile: hostile }), json!([{ "a": hostile }, { "a": hostile }])]
            {
                let html = rendered(&value);
                let tags: Vec<&str> =
                    html.split('<').skip(1).filter_map(|rest| rest.split(['>', ' ']).next()).collect();
                let known =
                    ["dl", "/dl", "dt", "/dt", "dd", "/dd", "ul", "/ul", "li", "/li", "table", "/table"];
                let cells = ["thead", "/thead", "tbody", "/tbody", "tr", "/tr", "th", "/th", "td", "/td"];
                assert!(tags.iter().all(|tag| known.contains(tag) || cells.contains(tag)), "{html}");
            }
        }
    }

    #[test]
    fn a_text_cannot_be_turned_around() {
        assert_eq!(rendered(&json!("a\u{202e}b")), "a\u{fffd}b");
    }

    #[test]
    fn a_difference_cannot_be_turned_around_and_is_not_lost() {
        let found = changes(&json!({"a": "b"}), &json!({"a": "b\u{202e}"}));
        let after = Some("b\u{fffd}".to_owned());
        assert_eq!(found, vec![Change { path: "/a".into(), before: Some("b".into()), after }]);
    }

    #[test]
    fn objects_are_lists_and_rows_are_tables() {
        assert_eq!(rendered(&json!({"idpType": "okta"})), "<dl><dt>idpType</dt><dd>okta</dd></dl>");
        assert!(rendered(&json!([{"a": 1}, {"a": 2}])).starts_with("<table>"));
        assert_eq!(rendered(&json!(["x", "y"])), "<ul><li>x</li><li>y</li></ul>");
        assert_eq!(rendered(&json!("x\n<y")), "<span class=\"text\">x\n&lt;y</span>");
    }

    #[test]
    fn a_huge_artifact_makes_a_bounded_page() {
        let many: Vec<Value> = (0..100_000).map(|number| json!(number)).collect();
        let mut left = VALUES_MAX;
        let mut out = String::new();
        write(&json!(many), DEPTH_MAX, &mut left, &mut out);
        assert_eq!(left, 0);
    }

    #[test]
    fn differences_are_by_path() {
        let before = json!({"idpType": "okta", "groups": ["a", "b"], "same": 1});
        let after = json!({"idpType": "azure_ad", "groups": ["a"], "same": 1, "more": true});
        let found: Vec<(String, Option<String>, Option<String>)> = changes(&before, &after)
            .into_iter()
            .map(|change| (change.path, change.before, change.after))
            .collect();
        assert_eq!(
            found,
            vec![
                ("/groups/1".into(), Some("b".into()), None),
                ("/idpType".into(), Some("okta".into()), Some("azure_ad".into())),
                ("/more".into(), None, Some("true".into())),
            ]
        );
    }
}
