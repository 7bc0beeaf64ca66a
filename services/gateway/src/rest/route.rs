//! The routes of REST, from the HTTP annotations of the methods. A literal segment wins over a variable one.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use phasegate_proto_json::pool;
use prost_reflect::{DynamicMessage, FieldDescriptor, MethodDescriptor, Value};

use crate::error::Error;
use crate::method::{Methods, PublicMethod};

/// The bytes of an artifact, which no annotation can describe.
pub(crate) const CONTENT_TEMPLATE: &str = "/api/processes/instances/{instance_id}/artifacts/{key}/content";
const GET_ARTIFACT: &str = "/phasegate.artifact.v1.ArtifactService/GetArtifact";

/// One piece of a path between slashes. Literals come first, which is how they win.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    Variable,
}

/// Where the body of a request goes.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    /// There is none.
    Absent,
    /// The whole message, but for what the path says.
    Whole,
    /// One field.
    Field(FieldDescriptor),
}

/// What a route answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The answer as JSON.
    Json,
    /// A stream of events.
    Events,
    /// The bytes of an artifact.
    Content,
}

/// One way to reach a method.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) method: Arc<PublicMethod>,
    /// HTTP method.
    pub(crate) verb: http::Method,
    /// As written: `/api/processes/{process_id}`.
    pub(crate) template: String,
    /// Fields that the path binds, in its order.
    pub(crate) variables: Vec<FieldDescriptor>,
    pub(crate) body: Body,
    /// Field of the answer that is the body; the whole answer without one.
    pub(crate) response_body: Option<FieldDescriptor>,
    pub(crate) success: StatusCode,
    pub(crate) form: Form,
    /// Stable name: `Service_Method`, with a number from the second way on.
    pub(crate) operation_id: String,
}

/// All routes.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    by_shape: BTreeMap<Vec<Segment>, BTreeMap<String, Arc<Route>>>,
    all: Vec<Arc<Route>>,
}

/// What is at a path.
#[derive(Debug)]
pub(crate) enum Found<'a, 'p> {
    /// A route, and what its variables are, still percent-encoded.
    Route(&'a Arc<Route>, Vec<&'p str>),
    /// Routes for other HTTP methods, as in `Allow`.
    OtherMethods(String),
    /// Nothing.
    Nothing,
}

impl Routes {
    /// Reads the annotations.
    pub(crate) fn read(methods: &Methods) -> Result<Self, Error> {
        let mut routes = Self::default();
        for method in methods.iter() {
            for (index, rule) in rules(&method.descriptor).into_iter().enumerate() {
                routes.add(route(method, &rule, index)?)?;
            }
        }
        if let Some(method) = methods.find(GET_ARTIFACT) {
            routes.add(content_route(method)?)?;
        }
        Ok(routes)
    }

    /// Goes through all of them, by method.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.all.iter()
    }

    /// Finds the route for a call. HEAD is answered where GET is.
    pub(crate) fn find<'a, 'p>(&'a self, verb: &http::Method, path: &'p str) -> Found<'a, 'p> {
        let pieces: Vec<&str> = path.split('/').skip(1).collect();
        // The map is in order, and literals come before variables in it: the first that fits is the most literal.
        let at_path = self.by_shape.iter().find(|(shape, _)| fits(shape, &pieces));
        let Some((shape, by_verb)) = at_path else { return Found::Nothing };
        let wanted = if verb == http::Method::HEAD { "GET" } else { verb.as_str() };
        let Some(route) = by_verb.get(wanted) else {
            return Found::OtherMethods(allow(by_verb.keys()));
        };
        let values = shape.iter().zip(&pieces).filter(|(segment, _)| **segment == Segment::Variable);
        Found::Route(route, values.map(|(_, piece)| *piece).collect())
    }

    fn add(&mut self, route: Route) -> Result<(), Error> {
        let shape = shape(&route.template).map(|(shape, _)| shape).unwrap_or_default();
        let route = Arc::new(route);
        let before = self.by_shape.entry(shape).or_default().insert(route.verb.to_string(), route.clone());
        if let Some(before) = before {
            let why = format!("{} {} reaches {}, too", route.verb, route.template, before.operation_id);
            return Err(Error::Route { method: route.operation_id.clone(), why });
        }
        self.all.push(route);
        Ok(())
    }
}

fn fits(shape: &[Segment], pieces: &[&str]) -> bool {
    shape.len() == pieces.len()
        && shape.iter().zip(pieces).all(|(segment, piece)| match segment {
            Segment::Literal(literal) => literal == piece,
            Segment::Variable => !piece.is_empty(),
        })
}

fn allow<'a>(verbs: impl Iterator<Item = &'a String>) -> String {
    let mut allow: Vec<&str> = verbs.map(String::as_str).collect();
    if allow.contains(&"GET") {
        allow.push("HEAD");
    }
    allow.sort_unstable();
    allow.join(", ")
}

/// Splits a template into its shape and the names of its variables.
fn shape(template: &str) -> Option<(Vec<Segment>, Vec<&str>)> {
    let mut names = Vec::new();
    let segments = template.strip_prefix('/')?.split('/').map(|piece| {
        match piece.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(name) => {
                names.push(name);
                Segment::Variable
            }
            None => Segment::Literal(piece.to_owned()),
        }
    });
    let segments = segments.collect();
    Some((segments, names))
}

/// The annotation of a method, and the further ones inside of it.
fn rules(method: &MethodDescriptor) -> Vec<DynamicMessage> {
    let Some(extension) = pool().get_extension_by_name("google.api.http") else { return Vec::new() };
    let options = method.options();
    if !options.has_extension(&extension) {
        return Vec::new();
    }
    let Value::Message(rule) = options.get_extension(&extension).into_owned() else { return Vec::new() };
    let mut rules = vec![rule];
    let further = rules.first().and_then(|rule| rule.get_field_by_name("additional_bindings"));
    let further = further.map(std::borrow::Cow::into_owned);
    if let Some(Value::List(bindings)) = further {
        rules.extend(bindings.iter().filter_map(Value::as_message).cloned());
    }
    rules
}

fn route(method: &Arc<PublicMethod>, rule: &DynamicMessage, index: usize) -> Result<Route, Error> {
    let descriptor = &method.descriptor;
    let fault = |why: String| Error::Route { method: descriptor.full_name().to_owned(), why };
    let text = |name: &str| match rule.get_field_by_name(name).as_deref() {
        Some(Value::String(text)) => text.clone(),
        _ => String::new(),
    };
    let found = ["get", "put", "post", "delete", "patch"].into_iter().map(|verb| (verb, text(verb)));
    let (verb, template) = found
        .into_iter()
        .find(|(_, template)| !template.is_empty())
        .ok_or_else(|| fault("it has no path".to_owned()))?;
    let verb =
        http::Method::from_bytes(verb.to_uppercase().as_bytes()).map_err(|error| fault(error.to_string()))?;
    let (_, names) =
        shape(&template).ok_or_else(|| fault(format!("{template} does not begin with a slash")))?;
    let input = descriptor.input();
    let field = |name: &str| {
        let field = input.get_field_by_name(name);
        field.ok_or_else(|| fault(format!("{} has no field {name}", input.full_name())))
    };
    let variables = names.into_iter().map(field).collect::<Result<Vec<_>, _>>()?;
    let body = match text("body").as_str() {
        "" => Body::Absent,
        "*" => Body::Whole,
        name => Body::Field(field(name)?),
    };
    let output = descriptor.output();
    let response_body = match text("response_body").as_str() {
        "" => None,
        name => Some(
            output.get_field_by_name(name).ok_or_else(|| fault(format!("the answer has no field {name}")))?,
        ),
    };
    let form = if method.streams() { Form::Events } else { Form::Json };
    let number = if index == 0 { String::new() } else { format!("_{}", index + 1) };
    let operation_id = format!("{}_{}{number}", descriptor.parent_service().name(), descriptor.name());
    let success = success(descriptor);
    Ok(Route {
        method: method.clone(),
        verb,
        template,
        variables,
        body,
        response_body,
        success,
        form,
        operation_id,
    })
}

fn success(method: &MethodDescriptor) -> StatusCode {
    let extension = pool().get_extension_by_name("phasegate.rest.v1.success_status");
    let options = method.options();
    let status = extension.and_then(|extension| options.get_extension(&extension).as_i32());
    let status = status.and_then(|status| u16::try_from(status).ok()).filter(|status| *status != 0);
    status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK)
}

fn content_route(method: &Arc<PublicMethod>) -> Result<Route, Error> {
    let fault = |name: &str| Error::Route {
        method: method.descriptor.full_name().to_owned(),
        why: format!("it has no field {name}"),
    };
    let field = |name: &str| method.descriptor.input().get_field_by_name(name).ok_or_else(|| fault(name));
    Ok(Route {
        method: method.clone(),
        verb: http::Method::GET,
        template: CONTENT_TEMPLATE.to_owned(),
        variables: vec![field("instance_id")?, field("key")?],
        body: Body::Absent,
        response_body: None,
        success: StatusCode::OK,
        form: Form::Content,
        operation_id: "ArtifactService_GetArtifactContent".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;

    fn routes() -> Routes {
        Routes::read(&Methods::read(&Limits::default()).unwrap()).unwrap()
    }

    fn found(verb: &str, path: &str) -> String {
        let routes = routes();
        let verb = http::Method::from_bytes(verb.as_bytes()).unwrap();
        match routes.find(&verb, path) {
            Found::Route(route, values) => {
                format!("{} {}", route.operation_id, values.join(",")).trim().to_owned()
            }
            Found::OtherMethods(allow) => format!("405 {allow}"),
            Found::Nothing => "404".to_owned(),
        }
    }

    #[test]
    fn the_eleven_routes_of_processes_and_templates() {
        let table = [
            ("GET", "/api/processes", "DefinitionService_ListProcessDefinitions"),
            ("GET", "/api/processes/d", "DefinitionService_GetProcessDefinition d"),
            ("POST", "/api/processes/d/instances", "InstanceService_StartInstance d"),
            ("GET", "/api/processes/instances/i", "InstanceService_GetInstance i"),
            ("POST", "/api/processes/instances/i/phase", "InstanceService_AdvancePhase i"),
            ("GET", "/api/processes/instances/i/approvals", "ApprovalService_ListApprovals i"),
            ("GET", "/api/processes/instances/i/artifacts", "ArtifactService_ListArtifacts i"),
            ("POST", "/api/processes/instances/i/artifacts", "ArtifactService_StoreArtifact i"),
            ("GET", "/api/team-templates", "TeamTemplateService_ListTeamTemplates"),
            ("GET", "/api/team-templates/t", "TeamTemplateService_GetTeamTemplate t"),
            ("POST", "/api/team-templates/t/instantiate", "TeamTemplateService_InstantiateTeamTemplate t"),
        ];
        for (verb, path, expected) in table {
            assert_eq!(found(verb, path), expected);
        }
    }

    #[test]
    fn literals_win_and_other_methods_are_named() {
        assert_eq!(found("GET", "/api/processes/instances"), "InstanceService_ListInstances");
        assert_eq!(found("HEAD", "/api/processes/instances/i"), "InstanceService_GetInstance i");
        assert_eq!(found("GET", "/api/processes/instances/i/status"), "InstanceService_GetInstance_2 i");
        assert_eq!(found("GET", "/api/processes/d/instances"), "InstanceService_ListInstances_2 d");
        assert_eq!(
            found("GET", "/api/processes/d/versions/1.0.0"),
            "DefinitionService_GetProcessDefinition_2 d,1.0.0"
        );
        let content = "ArtifactService_GetArtifactContent i,k";
        assert_eq!(found("GET", "/api/processes/instances/i/artifacts/k/content"), content);
        assert_eq!(found("GET", "/api/processes/validate"), "405 POST");
        assert_eq!(found("DELETE", "/api/processes/d"), "405 GET, HEAD");
        assert_eq!(found("DELETE", "/api/processes"), "405 GET, HEAD, POST");
        for nothing in
            ["/api", "/api/", "/api/proceses", "/api/processes/", "/api//processes", "/api/processes/d/x/y/z"]
        {
            assert_eq!(found("GET", nothing), "404", "{nothing}");
        }
    }

    #[test]
    fn every_public_unary_method_has_a_route() {
        let routes = routes();
        for method in Methods::read(&Limits::default()).unwrap().iter() {
            let name = method.descriptor.full_name();
            assert!(routes.iter().any(|route| route.method.descriptor.full_name() == name), "{name}");
        }
    }
}
