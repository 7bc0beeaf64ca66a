//! The same description for people: one page that loads nothing else.

use askama::Template;
use serde_json::Value;

/// The page.
#[derive(Debug, Template)]
#[template(path = "docs.html")]
struct Page {
    version: String,
    groups: Vec<Group>,
    schemas: Vec<Schema>,
}

/// The calls of one service.
#[derive(Debug)]
struct Group {
    name: String,
    description: String,
    calls: Vec<Call>,
}

/// One route.
#[derive(Debug)]
struct Call {
    id: String,
    verb: String,
    path: String,
    summary: String,
    /// In paragraphs.
    description: Vec<String>,
    parameters: Vec<Row>,
    body: Option<Kind>,
    answers: Vec<(String, Kind)>,
}

/// A message or an enum.
#[derive(Debug)]
struct Schema {
    name: String,
    description: Vec<String>,
    fields: Vec<Row>,
}

/// One field or parameter.
#[derive(Debug)]
struct Row {
    name: String,
    place: String,
    kind: Kind,
    description: String,
}

/// What a value is, and the schema to read on, where there is one.
#[derive(Debug)]
struct Kind {
    text: String,
    link: Option<String>,
}

/// Renders the page of an OpenAPI document. An empty text where the template fails, which only memory can make it.
pub(crate) fn render(document: &Value) -> String {
    let page = Page {
        version: text(&document["info"]["version"]),
        groups: list(&document["tags"]).iter().map(|tag| group(document, tag)).collect(),
        schemas: entries(&document["components"]["schemas"])
            .map(|(name, schema)| self::schema(name, schema))
            .collect(),
    };
    page.render().unwrap_or_default()
}

fn group(document: &Value, tag: &Value) -> Group {
    let name = text(&tag["name"]);
    let operations = entries(&document["paths"])
        .flat_map(|(path, item)| entries(item).map(move |(verb, operation)| (path, verb, operation)));
    let own = operations.filter(|(_, _, operation)| operation["tags"][0] == name.as_str());
    let calls = own.map(|(path, verb, operation)| call(path, verb, operation)).collect();
    Group { description: text(&tag["description"]), calls, name }
}

fn call(path: &str, verb: &str, operation: &Value) -> Call {
    let answers = entries(&operation["responses"]).filter(|(status, _)| *status != "default");
    Call {
        id: text(&operation["operationId"]),
        verb: verb.to_uppercase(),
        path: path.to_owned(),
        summary: text(&operation["summary"]),
        description: paragraphs(&operation["description"]),
        parameters: list(&operation["parameters"])
            .iter()
            .map(|parameter| row(&text(&parameter["name"]), &parameter["schema"], parameter))
            .collect(),
        body: operation.get("requestBody").map(|body| kind(&body["content"]["application/json"]["schema"])),
        answers: answers.map(|(status, answer)| (status.to_owned(), content_kind(answer))).collect(),
    }
}

fn content_kind(answer: &Value) -> Kind {
    let content = entries(&answer["content"]).next();
    content.map_or(Kind { text: text(&answer["description"]), link: None }, |(media_type, content)| {
        match media_type {
            "text/event-stream" => {
                let item = kind(&content["schema"]["contentSchema"]);
                Kind { text: format!("a stream of {}", item.text), link: item.link }
            }
            "application/json" => kind(&content["schema"]),
            other => Kind { text: other.to_owned(), link: None },
        }
    })
}

fn schema(name: &str, schema: &Value) -> Schema {
    let fields = entries(&schema["properties"]).map(|(name, field)| row(name, field, field)).collect();
    Schema { name: name.to_owned(), description: paragraphs(&schema["description"]), fields }
}

fn row(name: &str, schema: &Value, described: &Value) -> Row {
    Row {
        name: name.to_owned(),
        place: text(&described["in"]),
        kind: kind(schema),
        description: text(&described["description"]),
    }
}

fn kind(schema: &Value) -> Kind {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        return Kind { text: name.to_owned(), link: Some(name.to_owned()) };
    }
    match schema["type"].as_str() {
        Some("array") => {
            let item = kind(&schema["items"]);
            Kind { text: format!("list of {}", item.text), link: item.link }
        }
        Some("object") if schema["additionalProperties"].is_object() => {
            let value = kind(&schema["additionalProperties"]);
            Kind { text: format!("map to {}", value.text), link: value.link }
        }
        Some(plain) => {
            let format = schema["format"].as_str().map(|format| format!(" ({format})")).unwrap_or_default();
            Kind { text: format!("{plain}{format}"), link: None }
        }
        None => Kind { text: "any".to_owned(), link: None },
    }
}

fn paragraphs(text: &Value) -> Vec<String> {
    let text = text.as_str().unwrap_or_default();
    text.split('\n').filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}
