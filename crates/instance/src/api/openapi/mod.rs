//! The OpenAPI document of the API on the first listener. Synchronous calls are not in it: what they take and answer is
//! the customer's API's.

mod operations;

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};

use operations::{Answer, Content, GROUPS, Operation};

/// `*`, or entity tags (RFC 9110 8.8.3).
const TAGS: &str = r#"^(\*|(W/)?"[!#-+\--~]*"(, ?(W/)?"[!#-+\--~]*")*)$"#;
const SCHEMAS: &str = include_str!("schemas.json");

pub(super) async fn document() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(|| whole().to_string());
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

fn whole() -> Value {
    let mut paths = Map::new();
    for operation in operations() {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described(operation);
    }
    // A part of this program, and read by a test.
    let schemas: Value = serde_json::from_str(SCHEMAS).unwrap_or_default();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Midward",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The instance's API. Synchronous calls go to another address, and are not described here.",
            "license": { "name": "Apache-2.0 OR MIT" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "api_key": { "type": "http", "scheme": "bearer", "description": "An API key, or an access token." },
                "oauth": {
                    "type": "oauth2",
                    "flows": { "clientCredentials": { "tokenUrl": "/api/v1/oauth/token", "scopes": {} } },
                },
                "client_secret": { "type": "http", "scheme": "basic" },
            },
        },
        "security": [{ "api_key": [] }, { "oauth": [] }],
    })
}

fn operations() -> impl Iterator<Item = &'static Operation> {
    GROUPS.iter().flat_map(|group| group.iter())
}

fn described(operation: &Operation) -> Value {
    let mut responses = Map::new();
    for answer in operation.answers {
        responses.insert(answer.status.to_owned(), response(answer));
    }
    for &(status, description) in problems(operation) {
        responses.entry(status).or_insert_with(|| problem(status, description));
    }
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.path.split('/').nth(3).unwrap_or_default()],
        "parameters": parameters(operation),
        "responses": responses,
    });
    if let Some(content) = operation.body {
        let required = !operation.body_may_be_absent;
        described["requestBody"] = json!({ "required": required, "content": media(content) });
    }
    if operation.is_open {
        described["security"] = json!([]);
    }
    described
}

/// What every operation may answer besides.
fn problems(operation: &Operation) -> &'static [(&'static str, &'static str)] {
    if operation.is_open {
        return &[];
    }
    &[
        ("400", "The request is not understood."),
        ("401", "The API key or access token is absent, unknown or expired."),
        ("403", "The client's role does not allow it."),
        ("404", "There is no such record."),
        ("408", "The body did not come in time."),
        ("409", "It does not fit to what there is."),
        ("412", "The record is not the one that the condition names."),
        ("413", "The body is too large."),
        ("422", "The idempotency key was used for another request."),
        ("429", "The client made too many requests."),
        ("503", "The database did not take or give the data, the queue is full, or the instance is busy or stops."),
    ]
}

fn problem(status: &str, description: &str) -> Value {
    let mut problem = json!({ "description": description, "content": media(Content::Problem) });
    if status == "429" {
        problem["headers"] =
            json!({ "Retry-After": { "required": true, "schema": { "type": "integer", "minimum": 1 } } });
    }
    problem
}

fn response(answer: &Answer) -> Value {
    let mut response = json!({ "description": answer.description });
    if let Some(content) = answer.content {
        response["content"] = media(content);
    }
    for &header in answer.headers {
        response["headers"][header] = json!({ "required": true, "schema": { "type": "string" } });
    }
    response
}

fn media(content: Content) -> Value {
    let (kind, schema) = match content {
        Content::Json(name) => ("application/json", reference(name)),
        Content::Page(name) => (
            "application/json",
            json!({
                "type": "object",
                "properties": {
                    "items": { "type": "array", "items": reference(name) },
                    "next": { "type": "string", "description": "There is more: give it as `after` (or `before`)." },
                },
                "required": ["items"],
                "additionalProperties": false,
            }),
        ),
        Content::Form(name) => ("application/x-www-form-urlencoded", reference(name)),
        Content::Problem => ("application/problem+json", reference("Problem")),
    };
    json!({ kind: { "schema": schema } })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn parameters(operation: &Operation) -> Value {
    let in_path = operation.path.split('{').skip(1).filter_map(|rest| rest.split('}').next()).map(|name| {
        let schema = match (name, operation.actions) {
            ("id", _) => json!({ "type": "string", "pattern": "^[0-9a-f]{32}$" }),
            ("action", actions) if !actions.is_empty() => json!({ "type": "string", "enum": actions }),
            _ => reference("Name"),
        };
        json!({ "name": name, "in": "path", "required": true, "schema": schema })
    });
    let in_query = operation.query.iter().map(|&(name, schema)| {
        let schema: Value = serde_json::from_str(schema).unwrap_or_default();
        json!({ "name": name, "in": "query", "required": false, "schema": schema })
    });
    let in_headers = operation.conditions.iter().map(|name| {
        let schema = json!({ "type": "string", "pattern": TAGS });
        json!({ "name": name, "in": "header", "required": false, "schema": schema })
    });
    in_path.chain(in_query).chain(in_headers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::clients;

    #[test]
    fn the_document_holds_together() {
        let document = whole();
        let text = document.to_string();
        for reference in text.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next().expect("an end"))
        {
            assert!(document["components"]["schemas"][reference].is_object(), "{reference} is not defined");
        }
        for operation in operations() {
            assert!(operation.query.iter().all(|(_, schema)| serde_json::from_str::<Value>(schema).is_ok()));
        }
    }

    /// Which methods each has is asked of a running instance.
    #[test]
    fn every_path_of_the_api_is_described() {
        let named = |source: &str, call: &str| -> Vec<String> {
            let paths = source.split(call).skip(1).filter_map(|rest| rest.split('"').nth(1));
            paths.map(str::to_owned).collect()
        };
        let source = include_str!("../mod.rs");
        let mut paths = named(source, ".route(");
        for path in named(source, ".merge(clients::routes(") {
            paths.extend(clients::BELOW.map(|below| format!("{path}{below}")));
        }
        let routed = include_str!("../clients.rs").matches(".route(").count();
        assert_eq!(routed, clients::BELOW.len(), "a path of clients that is not in BELOW");
        let merged = source.matches(".merge(").count() - source.matches(".merge(clients::routes(").count();
        assert_eq!(merged, 1, "more than the MIDs' side, which is no part of the API");
        paths.retain(|path| !matches!(path.as_str(), "/healthz" | "/readyz" | "/metrics"));
        paths.sort();
        let mut described: Vec<String> = operations().map(|operation| operation.path.to_owned()).collect();
        described.sort();
        described.dedup();
        assert_eq!(paths, described);
    }
}
