//! The description of REST for programs (OpenAPI 3.1) and for people, both from the contracts and their comments.

mod page;
mod schema;

use std::collections::BTreeSet;

use prost_reflect::{FieldDescriptor, ServiceDescriptor};
use serde_json::{Map, Value, json};

use self::schema::{Schemas, field_schema};
use crate::comment::Comments;
use crate::rest::query_fields;
use crate::rest::route::{Body, Form, Route, Routes};

pub(crate) use self::page::render as page;

/// Writes the OpenAPI document. `dev` is for a server that wants no key.
pub(crate) fn openapi(routes: &Routes, dev: bool) -> Value {
    let comments = Comments::read();
    let mut schemas = Schemas::new(&comments);
    let mut paths: Map<String, Value> = Map::new();
    for route in routes.iter() {
        let operation = operation(route, &comments, &mut schemas);
        let item = paths.entry(camel_template(route)).or_insert_with(|| json!({}));
        if let Some(item) = item.as_object_mut() {
            item.insert(route.verb.as_str().to_lowercase(), operation);
        }
    }
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Phasegate",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Processes with phases, gates, agents and human approvals. Names are camelCase; an enum is a \
                            lower-case word; a time is RFC 3339 text; a number of 64 bits is text. A field that is not \
                            known is refused. Every call that changes something may carry `Idempotency-Key`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": tags(routes, &comments),
        "paths": paths,
        "components": {
            "schemas": schemas.finish(),
            "responses": {"Error": {
                "description": "The call was refused, or failed. `reason` in the first detail says why, and never changes its \
                                meaning.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            }},
        },
    });
    if !dev {
        document["components"]["securitySchemes"] = json!({"key": {"type": "http", "scheme": "bearer"}});
        document["security"] = json!([{"key": []}]);
    }
    document
}

fn tags(routes: &Routes, comments: &Comments) -> Vec<Value> {
    let mut seen = BTreeSet::new();
    let services = routes.iter().map(|route| route.method.descriptor.parent_service());
    let fresh = services.filter(|service| seen.insert(service.full_name().to_owned()));
    fresh.map(|service| json!({"name": tag(service), "description": comments.of_service(service)})).collect()
}

/// The name of a group: its service's, without the ending that all have.
fn tag(service: &ServiceDescriptor) -> String {
    service.name().strip_suffix("Service").unwrap_or(service.name()).to_owned()
}

/// Variables of a path go by the names that JSON has for their fields.
fn camel_template(route: &Route) -> String {
    route.variables.iter().fold(route.template.clone(), |template, field| {
        template.replace(&format!("{{{}}}", field.name()), &format!("{{{}}}", field.json_name()))
    })
}

fn operation(route: &Route, comments: &Comments, schemas: &mut Schemas<'_>) -> Value {
    let method = &route.method.descriptor;
    let comment = comments.of_method(method);
    // The first sentence; "Refuses with" and other paragraphs are for the description.
    let summary = comment.split(". ").next().and_then(|text| text.split(".\n").next()).unwrap_or(comment);
    let mut operation = json!({
        "operationId": route.operation_id,
        "tags": [tag(method.parent_service())],
        "summary": summary.trim_end_matches('.'),
        "description": comment,
        "parameters": parameters(route, comments, schemas),
        "responses": responses(route, schemas),
    });
    let body = match &route.body {
        Body::Absent => None,
        Body::Whole => Some((schemas.reference(&method.input()), false)),
        Body::Field(field) => Some((field_schema(field, schemas), true)),
    };
    if let Some((schema, required)) = body {
        operation["requestBody"] =
            json!({"required": required, "content": {"application/json": {"schema": schema}}});
    }
    operation
}

fn parameters(route: &Route, comments: &Comments, schemas: &mut Schemas<'_>) -> Vec<Value> {
    let mut parameter = |field: &FieldDescriptor, place: &str| {
        let schema = field_schema(field, schemas);
        json!({
            "name": field.json_name(),
            "in": place,
            "required": place == "path",
            "description": comments.of_field(field),
            "schema": schema,
        })
    };
    let mut parameters: Vec<Value> = route.variables.iter().map(|field| parameter(field, "path")).collect();
    // The header stands for the field of the same meaning.
    let in_query = query_fields(route).filter(|field| field.name() != "request_id");
    parameters.extend(in_query.map(|field| parameter(&field, "query")));
    let mut header = |name: &str, description: &str| {
        parameters.push(json!({
            "name": name, "in": "header", "required": false, "description": description, "schema": {"type": "string"},
        }));
    };
    if route.method.descriptor.input().get_field_by_name("request_id").is_some() {
        header(
            "Idempotency-Key",
            "A repeated call with the same key gets the first answer, for at least 7 days.",
        );
    }
    if route.form == Form::Events {
        header("Last-Event-ID", "Where the stream was left; wins over `resumeToken`.");
    }
    parameters
}

fn responses(route: &Route, schemas: &mut Schemas<'_>) -> Value {
    let output = route.method.descriptor.output();
    let (description, media_type, schema) = match route.form {
        Form::Json => {
            let schema = match &route.response_body {
                Some(field) => field_schema(field, schemas),
                None => schemas.reference(&output),
            };
            ("The answer.", "application/json", schema)
        }
        Form::Events => {
            // What each event carries is described among the schemas.
            let item = output
                .fields()
                .find(FieldDescriptor::is_list)
                .and_then(|field| field.kind().as_message().cloned());
            let item = item.map(|message| schemas.reference(&message)).unwrap_or_default();
            let schema =
                json!({"type": "string", "contentMediaType": "application/json", "contentSchema": item});
            (
                "Server-Sent Events: each has its JSON as data, and the resume token as id.",
                "text/event-stream",
                schema,
            )
        }
        Form::Content => {
            ("The bytes.", "application/octet-stream", json!({"type": "string", "format": "binary"}))
        }
    };
    let answer =
        |description: &str| json!({"description": description, "content": {media_type: {"schema": schema}}});
    let mut responses = Map::new();
    responses.insert(route.success.as_str().to_owned(), answer(description));
    if route.success == http::StatusCode::CREATED {
        responses
            .insert("200".to_owned(), answer("It was there already, or the call repeats an earlier one."));
    }
    if route.form == Form::Content {
        responses.insert(
            "304".to_owned(),
            json!({"description": "The content has the digest that was asked about."}),
        );
    }
    responses.insert("default".to_owned(), json!({"$ref": "#/components/responses/Error"}));
    Value::Object(responses)
}
