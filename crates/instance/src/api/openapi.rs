//! The OpenAPI document.

use axum::Json;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, PathsBuilder, Required, ResponseBuilder,
};

/// Method, path, summary, status of success.
const OPERATIONS: &[(HttpMethod, &str, &str, &str)] = &[
    (HttpMethod::Post, "/api/v1/apply", "Apply a whole document of records in one transaction", "200"),
    (HttpMethod::Get, "/api/v1/connections", "List connections", "200"),
    (HttpMethod::Get, "/api/v1/connections/{name}", "Get a connection", "200"),
    (HttpMethod::Put, "/api/v1/connections/{name}", "Create or replace a connection", "200"),
    (HttpMethod::Delete, "/api/v1/connections/{name}", "Delete a connection", "204"),
    (HttpMethod::Get, "/api/v1/credentials", "List credentials", "200"),
    (HttpMethod::Get, "/api/v1/credentials/{name}", "Get a credential", "200"),
    (HttpMethod::Put, "/api/v1/credentials/{name}", "Create or replace a credential", "200"),
    (HttpMethod::Delete, "/api/v1/credentials/{name}", "Delete a credential", "204"),
    (HttpMethod::Get, "/api/v1/oauth-entities", "List OAuth entities", "200"),
    (HttpMethod::Get, "/api/v1/oauth-entities/{name}", "Get an OAuth entity", "200"),
    (HttpMethod::Put, "/api/v1/oauth-entities/{name}", "Create or replace an OAuth entity", "200"),
    (HttpMethod::Delete, "/api/v1/oauth-entities/{name}", "Delete an OAuth entity", "204"),
    (HttpMethod::Get, "/api/v1/oauth-entity-profiles", "List OAuth entity profiles", "200"),
    (HttpMethod::Get, "/api/v1/oauth-entity-profiles/{name}", "Get an OAuth entity profile", "200"),
    (HttpMethod::Put, "/api/v1/oauth-entity-profiles/{name}", "Create or replace an OAuth entity profile", "200"),
    (HttpMethod::Delete, "/api/v1/oauth-entity-profiles/{name}", "Delete an OAuth entity profile", "204"),
    (HttpMethod::Get, "/api/v1/mids", "List MIDs", "200"),
    (HttpMethod::Post, "/api/v1/mids/enroll-tokens", "Make a one-time enrollment token", "201"),
    (HttpMethod::Get, "/api/v1/mids/{name}", "Get a MID", "200"),
    (HttpMethod::Post, "/api/v1/mids/{name}/{action}", "Validate, invalidate, pause, resume or drain a MID", "200"),
    (HttpMethod::Get, "/api/v1/api-keys", "List API keys", "200"),
    (HttpMethod::Post, "/api/v1/api-keys", "Create an API key", "201"),
    (HttpMethod::Delete, "/api/v1/api-keys/{name}", "Delete an API key", "204"),
    (HttpMethod::Get, "/api/v1/requests", "List requests, newest first", "200"),
    (HttpMethod::Post, "/api/v1/requests", "Submit a request to the queue", "202"),
    (HttpMethod::Get, "/api/v1/requests/{id}", "Get a request, waiting up to `wait_ms` for its outcome", "200"),
    (HttpMethod::Post, "/api/v1/requests/{id}/cancel", "End a request that no MID was given yet", "200"),
];

pub(super) async fn document() -> Json<OpenApi> {
    let mut paths = PathsBuilder::new();
    for (method, path, summary, success) in OPERATIONS {
        let mut operation = OperationBuilder::new()
            .summary(Some(*summary))
            .response(*success, ResponseBuilder::new().description("done").build())
            .response("default", ResponseBuilder::new().description("problem details (RFC 9457)").build())
            .security(SecurityRequirement::new("api_key", Vec::<String>::new()));
        for name in path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
            let parameter =
                ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True).build();
            operation = operation.parameter(parameter);
        }
        paths = paths.path(*path, PathItem::new(method.clone(), operation.build()));
    }
    let components = ComponentsBuilder::new()
        .security_scheme("api_key", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)))
        .build();
    let info = InfoBuilder::new().title("Midward").version(env!("CARGO_PKG_VERSION")).build();
    Json(OpenApiBuilder::new().info(info).paths(paths.build()).components(Some(components)).build())
}
