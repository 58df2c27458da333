//! The operations of the API, one entry each.

/// A body, of a request or an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    /// Named schema.
    Json(&'static str),
    /// A page of items of a named schema.
    Page(&'static str),
    Form(&'static str),
    Problem,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: &'static str,
    pub(super) description: &'static str,
    pub(super) content: Option<Content>,
    pub(super) headers: &'static [&'static str],
}

#[derive(Debug)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    /// Parameters with their schemas.
    pub(super) query: &'static [(&'static str, &'static str)],
    /// Headers.
    pub(super) conditions: &'static [&'static str],
    /// What `{action}` may be.
    pub(super) actions: &'static [&'static str],
    pub(super) body: Option<Content>,
    pub(super) body_may_be_absent: bool,
    pub(super) answers: &'static [Answer],
    /// Needs no API key.
    pub(super) is_open: bool,
}

const fn operation(
    method: &'static str,
    path: &'static str,
    id: &'static str,
    summary: &'static str,
    answers: &'static [Answer],
) -> Operation {
    Operation {
        method,
        path,
        id,
        summary,
        query: &[],
        conditions: &[],
        actions: &[],
        body: None,
        body_may_be_absent: false,
        answers,
        is_open: false,
    }
}

impl Operation {
    const fn query(self, query: &'static [(&'static str, &'static str)]) -> Self {
        Self { query, ..self }
    }
    const fn body(self, content: Content) -> Self {
        Self { body: Some(content), ..self }
    }
    const fn conditions(self, conditions: &'static [&'static str]) -> Self {
        Self { conditions, ..self }
    }
}

const fn answer(status: &'static str, description: &'static str, content: Content) -> Answer {
    Answer { status, description, content: Some(content), headers: &[] }
}

const fn tagged(description: &'static str, content: Content) -> Answer {
    Answer { status: "200", description, content: Some(content), headers: &["ETag"] }
}

const GONE: &[Answer] = &[Answer { status: "204", description: "It is deleted.", content: None, headers: &[] }];
const NOT_MODIFIED: Answer =
    Answer { status: "304", description: "It is the one of If-None-Match.", content: None, headers: &["ETag"] };

const PAGED: &[(&str, &str)] = &[
    ("limit", r#"{"type":"integer","minimum":1,"maximum":500,"default":100}"#),
    ("after", r##"{"$ref":"#/components/schemas/Name"}"##),
];
const CHANGE: &[&str] = &["If-Match", "If-None-Match"];

macro_rules! records {
    ($path:literal, $item:literal, $schema:literal, $plural:literal, $singular:literal) => {
        [
            operation(
                "get",
                $path,
                concat!("list", $plural),
                concat!("List ", $plural),
                &[answer("200", "A page, by name.", Content::Page($schema))],
            )
            .query(PAGED),
            operation(
                "get",
                $item,
                concat!("get", $schema),
                concat!("Get ", $singular),
                &[tagged("The record.", Content::Json($schema)), NOT_MODIFIED],
            )
            .conditions(&["If-None-Match"]),
            operation(
                "put",
                $item,
                concat!("put", $schema),
                concat!("Create or replace ", $singular),
                &[tagged("The record.", Content::Json($schema))],
            )
            .body(Content::Json(concat!($schema, "Body")))
            .conditions(CHANGE),
            operation("delete", $item, concat!("delete", $schema), concat!("Delete ", $singular), GONE)
                .conditions(CHANGE),
        ]
    };
}

macro_rules! clients {
    ($path:literal, $schema:literal, $what:literal) => {
        [
            operation(
                "get",
                $path,
                concat!("list", $schema, "s"),
                concat!("List ", $what, "s"),
                &[answer("200", "A page, by name.", Content::Page("ApiClient"))],
            )
            .query(PAGED),
            operation(
                "post",
                $path,
                concat!("create", $schema),
                concat!("Create an ", $what, "; the secret is in the answer only"),
                &[answer("201", "The client with its secret.", Content::Json($schema))],
            )
            .body(Content::Json("NewApiClient")),
            operation(
                "get",
                concat!($path, "/{name}"),
                concat!("get", $schema),
                concat!("Get an ", $what),
                &[answer("200", "The client.", Content::Json("ApiClient"))],
            ),
            operation(
                "delete",
                concat!($path, "/{name}"),
                concat!("delete", $schema),
                concat!("Delete an ", $what, ": it is refused from then on"),
                GONE,
            ),
            Operation {
                body: Some(Content::Json("Rotation")),
                body_may_be_absent: true,
                ..operation(
                    "post",
                    concat!($path, "/{name}/rotate"),
                    concat!("rotate", $schema),
                    "Make a new secret; the present one stays good for a while",
                    &[answer("200", "The client with its new secret.", Content::Json($schema))],
                )
            },
        ]
    };
}

const CONNECTIONS: [Operation; 4] =
    records!("/api/v1/connections", "/api/v1/connections/{name}", "Connection", "Connections", "a connection");
const CLUSTERS: [Operation; 4] =
    records!("/api/v1/clusters", "/api/v1/clusters/{name}", "Cluster", "Clusters", "a cluster");
const CREDENTIALS: [Operation; 4] =
    records!("/api/v1/credentials", "/api/v1/credentials/{name}", "Credential", "Credentials", "a credential");
const ENTITIES: [Operation; 4] = records!(
    "/api/v1/oauth-entities",
    "/api/v1/oauth-entities/{name}",
    "OAuthEntity",
    "OAuthEntities",
    "an OAuth entity"
);
const PROFILES: [Operation; 4] = records!(
    "/api/v1/oauth-entity-profiles",
    "/api/v1/oauth-entity-profiles/{name}",
    "OAuthEntityProfile",
    "OAuthEntityProfiles",
    "an OAuth entity profile"
);
const API_KEYS: [Operation; 5] = clients!("/api/v1/api-keys", "ApiKey", "API key");
const OAUTH_CLIENTS: [Operation; 5] = clients!("/api/v1/oauth-clients", "OAuthClient", "OAuth client");

const MIDS: [Operation; 5] = [
    operation(
        "get",
        "/api/v1/mids",
        "listMids",
        "List MIDs",
        &[answer("200", "A page, by name.", Content::Page("Mid"))],
    )
    .query(PAGED),
    operation("get", "/api/v1/mids/{name}", "getMid", "Get a MID", &[answer("200", "The MID.", Content::Json("Mid"))]),
    Operation {
        actions: &["validate", "invalidate", "pause", "resume", "drain"],
        ..operation(
            "post",
            "/api/v1/mids/{name}/{action}",
            "changeMid",
            "Validate, invalidate, pause, resume or drain a MID",
            &[answer("200", "The MID.", Content::Json("Mid"))],
        )
    },
    operation(
        "post",
        "/api/v1/mids/enroll-tokens",
        "createEnrollToken",
        "Make a one-time enrollment token",
        &[answer("201", "The token; it is in this answer only.", Content::Json("EnrollToken"))],
    )
    .body(Content::Json("NewEnrollToken")),
    operation(
        "post",
        "/api/v1/mids/{name}/rekey",
        "rekeyMid",
        "Make a one-time token by which an enrolled MID gets a new key",
        &[answer("201", "The token; it is in this answer only.", Content::Json("EnrollToken"))],
    ),
];

const JARS: [Operation; 3] = [
    operation(
        "get",
        "/api/v1/jars",
        "listJars",
        "List JARs that MIDs may fetch",
        &[answer("200", "A page, by name.", Content::Page("Jar"))],
    )
    .query(PAGED),
    operation(
        "put",
        "/api/v1/jars/{name}",
        "putJar",
        "Store or replace a JAR",
        &[answer("200", "The JAR.", Content::Json("Jar"))],
    )
    .body(Content::Json("JarDocument")),
    operation("delete", "/api/v1/jars/{name}", "deleteJar", "Delete a JAR", GONE),
];

const REQUEST_FILTERS: &[(&str, &str)] = &[
    PAGED[0],
    ("before", r##"{"$ref":"#/components/schemas/Name"}"##),
    ("connection", r##"{"$ref":"#/components/schemas/Name"}"##),
    ("state", r##"{"$ref":"#/components/schemas/RequestState"}"##),
    ("client", r##"{"$ref":"#/components/schemas/Name"}"##),
];

const REQUESTS: [Operation; 4] = [
    operation(
        "get",
        "/api/v1/requests",
        "listRequests",
        "List requests, newest first",
        &[answer("200", "A page.", Content::Page("Request"))],
    )
    .query(REQUEST_FILTERS),
    operation(
        "post",
        "/api/v1/requests",
        "submitRequest",
        "Submit a request to the queue",
        &[
            Answer {
                status: "202",
                description: "It is on disk.",
                content: Some(Content::Json("Submitted")),
                headers: &["Location"],
            },
            Answer {
                status: "200",
                description: "It was submitted before.",
                content: Some(Content::Json("Submitted")),
                headers: &["Location"],
            },
        ],
    )
    .body(Content::Json("NewRequest")),
    operation(
        "get",
        "/api/v1/requests/{id}",
        "getRequest",
        "Get a request, waiting up to `wait_ms` for its outcome",
        &[answer("200", "The request; with its outcome if it has one.", Content::Json("Request"))],
    )
    .query(&[(
        "wait_ms",
        r#"{"type":"integer","minimum":0,"default":0,"description":"milliseconds; at most a minute is waited"}"#,
    )]),
    operation(
        "post",
        "/api/v1/requests/{id}/cancel",
        "cancelRequest",
        "End a request that no MID has or may have sent",
        &[answer("200", "The request.", Content::Json("Request"))],
    ),
];

const DEAD_LETTERS: [Operation; 2] = [
    operation(
        "get",
        "/api/v1/dead-letters",
        "listDeadLetters",
        "List requests that failed after their last attempt, newest first",
        &[answer("200", "A page.", Content::Page("Request"))],
    )
    .query(REQUEST_FILTERS),
    operation(
        "post",
        "/api/v1/dead-letters/{id}/redrive",
        "redriveRequest",
        "Queue it again with all its attempts",
        &[answer("202", "It is queued.", Content::Json("Redriven"))],
    ),
];

const AUDIT: [Operation; 3] = [
    operation(
        "get",
        "/api/v1/audit/blocks",
        "listAuditBlocks",
        "List blocks of the audit, by chain and number",
        &[answer("200", "A page.", Content::Page("AuditBlock"))],
    )
    .query(PAGED),
    operation(
        "get",
        "/api/v1/audit/checkpoints",
        "listAuditCheckpoints",
        "List signed checkpoints of the audit",
        &[answer("200", "A page.", Content::Page("AuditCheckpoint"))],
    )
    .query(PAGED),
    operation(
        "get",
        "/api/v1/audit/keys",
        "listAuditKeys",
        "List the public keys that checkpoints are signed with",
        &[answer("200", "All of them.", Content::Page("AuditKey"))],
    ),
];

const OTHERS: [Operation; 4] = [
    operation(
        "get",
        "/api/v1/at-rest",
        "showAtRest",
        "Say whether calls and answers are encrypted in the database, and with which keys",
        &[answer("200", "Names of keys, never a key.", Content::Json("AtRest"))],
    ),
    operation(
        "post",
        "/api/v1/apply",
        "apply",
        "Apply a whole document of records in one transaction",
        &[answer("200", "What changes.", Content::Json("Applied"))],
    )
    .query(&[("dry_run", r#"{"type":"boolean","default":false}"#)])
    .body(Content::Json("ApplyDocument")),
    Operation {
        is_open: true,
        body: Some(Content::Form("TokenRequest")),
        ..operation(
            "post",
            "/api/v1/oauth/token",
            "token",
            "Get an access token (RFC 6749 4.4)",
            &[
                answer("200", "The token.", Content::Json("TokenReply")),
                answer("400", "RFC 6749 5.2.", Content::Json("TokenError")),
                answer("401", "The client is not known.", Content::Json("TokenError")),
            ],
        )
    },
    Operation {
        is_open: true,
        ..operation(
            "get",
            "/api/v1/openapi.json",
            "openapi",
            "This document",
            &[answer("200", "OpenAPI 3.1.", Content::Json("Any"))],
        )
    },
];

pub(super) const GROUPS: &[&[Operation]] = &[
    &CLUSTERS,
    &CONNECTIONS,
    &CREDENTIALS,
    &ENTITIES,
    &PROFILES,
    &API_KEYS,
    &OAUTH_CLIENTS,
    &MIDS,
    &JARS,
    &REQUESTS,
    &DEAD_LETTERS,
    &AUDIT,
    &OTHERS,
];
