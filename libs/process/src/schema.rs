//! JSON Schema (draft 2020-12) for values that a caller gives: the context of an instance, the onboarding of a team.
//!
//! A schema comes from a tenant, so it is bounded before it is compiled: it fetches nothing, its patterns run in linear
//! time, and a chain of references that would multiply the work is refused. `{properties, required}` without a `type` is
//! a schema, too: it is that of an object here, since nothing else is ever checked against one.

use std::collections::{BTreeMap, BTreeSet};

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

/// Largest schema, as JSON.
pub(crate) const MAX_SIZE: usize = 64 * 1024;

/// Deepest nesting of a schema.
const MAX_DEPTH: usize = 32;

/// Most schemas that one value may be checked against, with references followed.
const MAX_WORK: u64 = 20_000;

/// Most patterns; each is compiled.
const MAX_PATTERNS: usize = 100;

/// Largest compiled pattern; larger ones take long to make.
const PATTERN_SIZE: usize = 512 * 1024;

/// Most findings about one value.
const MAX_FAULTS: usize = 100;

/// Longest message about one value.
const MAX_MESSAGE: usize = 300;

/// Keywords whose value is one schema.
const ONE: [&str; 10] = [
    "not",
    "if",
    "then",
    "else",
    "items",
    "contains",
    "additionalProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// Keywords whose value is a list of schemas.
const LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];

/// Keywords whose value is a map of schemas.
const MAP: [&str; 5] = ["properties", "patternProperties", "dependentSchemas", "$defs", "definitions"];

/// Keywords that move references elsewhere.
const FOREIGN: [&str; 6] =
    ["$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$vocabulary"];

/// A schema that was found fit to check values.
#[derive(Debug, Clone)]
pub struct Schema {
    validator: Validator,
}

/// Why a schema cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SchemaUnusable {
    /// JSON Pointer into the schema.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

/// What a value has that its schema does not allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaFault {
    /// JSON Pointer into the value.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

impl Schema {
    /// Compiles a schema, or says why it cannot be used. Nothing is ever fetched.
    pub fn compile(schema: &Value) -> Result<Self, SchemaUnusable> {
        let Value::Object(members) = schema else {
            return Err(unusable("", "must be an object such as {\"properties\": {..}, \"required\": [..]}"));
        };
        let size = schema.to_string().len();
        if size > MAX_SIZE {
            return Err(unusable("", format!("has {size} bytes, and {MAX_SIZE} are allowed; shorten it")));
        }
        if depth(schema, 0) > MAX_DEPTH {
            return Err(unusable("", format!("is nested more than {MAX_DEPTH} deep; flatten it")));
        }
        Walk::new(schema).run()?;
        let mut members = members.clone();
        members.entry("type").or_insert_with(|| Value::from("object"));
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(
                PatternOptions::regex().size_limit(PATTERN_SIZE).dfa_size_limit(PATTERN_SIZE),
            )
            .should_validate_formats(true)
            .offline()
            .build(&Value::Object(members))
            .map_err(|error| unusable(error.instance_path().as_str(), short(&error.to_string())))?;
        Ok(Self { validator })
    }

    /// What `value` has that the schema does not allow; nothing when it fits.
    pub fn check(&self, value: &Value) -> Vec<SchemaFault> {
        let value = crate::canonical::normal(value);
        self.validator
            .iter_errors(&value)
            .take(MAX_FAULTS)
            .map(|error| {
                let mut path = error.instance_path().as_str().to_owned();
                // Whoever left a member out looks for its name, not for that of what surrounds it.
                if let jsonschema::error::ValidationErrorKind::Required { property } = error.kind()
                    && let Some(name) = property.as_str()
                {
                    path.push('/');
                    path.push_str(&name.replace('~', "~0").replace('/', "~1"));
                }
                SchemaFault { path, message: short(&sentence(&error)) }
            })
            .collect()
    }
}

/// What is wrong, with all that is allowed: the library names two of the values and counts the others.
fn sentence(error: &jsonschema::ValidationError<'_>) -> String {
    if let jsonschema::error::ValidationErrorKind::Enum { options } = error.kind()
        && let Some(options) = options.as_array()
    {
        let options: Vec<String> = options.iter().map(Value::to_string).collect();
        return format!("must be one of {}, not {}", options.join(", "), error.instance());
    }
    error.to_string()
}

fn unusable(path: &str, message: impl Into<String>) -> SchemaUnusable {
    SchemaUnusable { path: path.to_owned(), message: message.into() }
}

fn short(message: &str) -> String {
    message.chars().take(MAX_MESSAGE).collect()
}

/// How deep a value is nested, as far as it matters.
pub(crate) fn depth(value: &Value, above: usize) -> usize {
    // JSON that was read is at most 128 deep, and JSON that a message carried at most 100: this recursion has room.
    match value {
        Value::Array(items) => items.iter().map(|item| depth(item, above + 1)).max().unwrap_or(above + 1),
        Value::Object(members) => {
            members.values().map(|item| depth(item, above + 1)).max().unwrap_or(above + 1)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => above,
    }
}

/// Looks at every schema inside a schema once, and adds up what checking one value may cost.
struct Walk<'a> {
    root: &'a Value,
    /// Cost of the schema at a pointer.
    costs: BTreeMap<String, u64>,
    /// Pointers that are being added up.
    open: BTreeSet<String>,
    patterns: usize,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Value) -> Self {
        Self { root, costs: BTreeMap::new(), open: BTreeSet::new(), patterns: 0 }
    }

    fn run(mut self) -> Result<(), SchemaUnusable> {
        let cost = self.cost(self.root, "")?;
        if cost > MAX_WORK {
            return Err(unusable(
                "",
                "multiplies its references; write fewer `$ref` in `allOf`, `anyOf` and `oneOf`",
            ));
        }
        Ok(())
    }

    fn cost(&mut self, schema: &'a Value, pointer: &str) -> Result<u64, SchemaUnusable> {
        if let Some(cost) = self.costs.get(pointer) {
            return Ok(*cost);
        }
        let Value::Object(members) = schema else { return Ok(1) };
        if !self.open.insert(pointer.to_owned()) {
            return Err(unusable(pointer, "a `$ref` leads back to itself; write the levels out"));
        }
        let mut cost = 1_u64;
        for (keyword, value) in members {
            let at = join(pointer, keyword);
            cost = cost.saturating_add(self.keyword(keyword, value, &at)?);
        }
        self.open.remove(pointer);
        self.costs.insert(pointer.to_owned(), cost);
        Ok(cost)
    }

    fn keyword(&mut self, keyword: &str, value: &'a Value, at: &str) -> Result<u64, SchemaUnusable> {
        if FOREIGN.contains(&keyword) {
            return Err(unusable(
                at,
                format!("`{keyword}` cannot be used here; refer by `$ref` such as #/$defs/name"),
            ));
        }
        let mut cost = 0_u64;
        match (keyword, value) {
            ("$ref", Value::String(reference)) => cost = self.reference(reference, at)?,
            ("pattern", _) => self.pattern(at, 1)?,
            (keyword, schema) if ONE.contains(&keyword) => cost = self.cost(schema, at)?,
            (keyword, Value::Array(schemas)) if LIST.contains(&keyword) => {
                for (index, schema) in schemas.iter().enumerate() {
                    cost = cost.saturating_add(self.cost(schema, &join(at, &index.to_string()))?);
                }
            }
            (keyword, Value::Object(schemas)) if MAP.contains(&keyword) => {
                if keyword == "patternProperties" {
                    self.pattern(at, schemas.len())?;
                }
                for (name, schema) in schemas {
                    let inner = self.cost(schema, &join(at, name))?;
                    // What only waits to be referred to costs nothing where it stands.
                    if !matches!(keyword, "$defs" | "definitions") {
                        cost = cost.saturating_add(inner);
                    }
                }
            }
            _ => {}
        }
        Ok(cost)
    }

    fn reference(&mut self, reference: &str, at: &str) -> Result<u64, SchemaUnusable> {
        let target =
            reference.strip_prefix('#').filter(|pointer| pointer.is_empty() || pointer.starts_with('/'));
        let Some(pointer) = target.filter(|pointer| !pointer.contains('%')) else {
            return Err(unusable(
                at,
                "nothing is fetched: a `$ref` must lead into the schema itself, such as #/$defs/name",
            ));
        };
        let Some(schema) = self.root.pointer(pointer) else {
            return Err(unusable(at, format!("there is nothing at `{reference}`")));
        };
        self.cost(schema, pointer)
    }

    fn pattern(&mut self, at: &str, count: usize) -> Result<(), SchemaUnusable> {
        self.patterns += count;
        if self.patterns > MAX_PATTERNS {
            return Err(unusable(at, format!("there are more than {MAX_PATTERNS} patterns; use fewer")));
        }
        Ok(())
    }
}

fn join(pointer: &str, token: &str) -> String {
    format!("{pointer}/{}", token.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::{Map, json};

    use super::*;

    fn refused(schema: &Value) -> SchemaUnusable {
        Schema::compile(schema).map(|_| ()).unwrap_err()
    }

    #[test]
    fn onboarding_values_of_the_page() {
        let template: Value =
            serde_json::from_slice(include_bytes!("../tests/data/team-template.json")).unwrap();
        let schema = Schema::compile(&template["sharedOnboarding"]).unwrap();
        let good =
            json!({"customerName": "Acme", "customerDomain": "acme.com", "idpType": "okta", "extra": 1});
        assert_eq!(schema.check(&good), []);
        let faults = schema.check(&json!({"customerName": "Acme", "idpType": "saml"}));
        let paths: Vec<&str> = faults.iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(paths.len(), 2, "{faults:?}");
        assert!(paths.contains(&"/customerDomain") && paths.contains(&"/idpType"), "{faults:?}");
        let allowed = r#"must be one of "okta", "azure_ad", "google", "other", not "saml""#;
        assert!(faults.iter().any(|fault| fault.message == allowed), "{faults:?}");
        assert!(!schema.check(&json!("acme")).is_empty(), "a schema without a type is that of an object");
    }

    #[test]
    fn a_whole_number_is_an_integer_whatever_door_it_came_through() {
        let schema =
            Schema::compile(&json!({"properties": {"userCount": {"type": "integer", "minimum": 1}}}))
                .unwrap();
        assert_eq!(schema.check(&json!({"userCount": 5000.0})), []);
        assert_eq!(schema.check(&json!({"userCount": -1}))[0].path, "/userCount");
    }

    #[test]
    fn a_closed_schema_refuses_unknown_members() {
        let schema =
            Schema::compile(&json!({"properties": {"a": {}}, "additionalProperties": false})).unwrap();
        assert_eq!(schema.check(&json!({"a": 1, "b": 2})).len(), 1);
    }

    #[test]
    fn references_into_itself_are_followed() {
        let schema = Schema::compile(&json!({
            "properties": {"from": {"$ref": "#/$defs/name"}, "to": {"$ref": "#/$defs/name"}},
            "$defs": {"name": {"type": "string"}}
        }))
        .unwrap();
        assert_eq!(schema.check(&json!({"from": 1, "to": "x"})).len(), 1);
    }

    #[test]
    fn schemas_that_are_refused() {
        let deep = (0..40).fold(json!({}), |inner, _| json!({"properties": {"a": inner}}));
        let patterns: Map<String, Value> =
            (0..101).map(|index| (format!("p{index}"), json!({"pattern": "a"}))).collect();
        for (schema, path, part) in [
            (json!([]), "", "must be an object"),
            (json!({"title": "x".repeat(70_000)}), "", "bytes"),
            (deep, "", "nested"),
            (
                json!({"properties": {"a": {"$ref": "http://127.0.0.1:1/schema"}}}),
                "/properties/a/$ref",
                "fetched",
            ),
            (json!({"$ref": "file:///etc/passwd"}), "/$ref", "fetched"),
            (json!({"$ref": "#/$defs/none"}), "/$ref", "nothing at"),
            (json!({"$ref": "#"}), "", "leads back"),
            (json!({"$id": "http://other"}), "/$id", "cannot be used"),
            (
                json!({"properties": {"a": {"$dynamicRef": "#x"}}}),
                "/properties/a/$dynamicRef",
                "cannot be used",
            ),
            (json!({"type": "strnig"}), "/type", "strnig"),
            (json!({"properties": patterns}), "", "patterns"),
            (json!({"properties": {"a": {"pattern": "(?=x)y"}}}), "/properties/a/pattern", ""),
        ] {
            let fault = refused(&schema);
            assert!(fault.message.contains(part), "{fault:?} does not say {part:?}");
            assert!(path.is_empty() || fault.path == path, "{fault:?}");
        }
        // A member that is called like a keyword is none.
        Schema::compile(&json!({"properties": {"$id": {"type": "string"}, "$ref": {"type": "string"}}}))
            .unwrap();
    }

    #[test]
    fn references_that_multiply_are_refused_at_once() {
        let mut definitions = Map::new();
        for level in 0..30 {
            let next = json!({"$ref": format!("#/$defs/l{}", level + 1)});
            definitions.insert(format!("l{level}"), json!({"allOf": [next, next]}));
        }
        definitions.insert("l30".to_owned(), json!({"type": "string"}));
        let started = Instant::now();
        let fault = refused(&json!({"properties": {"a": {"$ref": "#/$defs/l0"}}, "$defs": definitions}));
        assert!(fault.message.contains("multiplies"), "{fault:?}");
        assert!(started.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn a_pattern_runs_in_linear_time() {
        let schema = Schema::compile(&json!({"properties": {"a": {"pattern": "^(a+)+$"}}})).unwrap();
        let started = Instant::now();
        assert_eq!(schema.check(&json!({"a": format!("{}!", "a".repeat(50_000))})).len(), 1);
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}
