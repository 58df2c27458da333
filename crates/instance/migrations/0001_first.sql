-- The portable subset: text identifiers, unix milliseconds in BIGINT, booleans as INTEGER 0 or 1, JSON as TEXT.
-- No client secret and no access token of a third party is ever stored.

CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE oauth_entities (
    name TEXT PRIMARY KEY,
    token_url TEXT NOT NULL,
    client_auth TEXT NOT NULL,
    issuer TEXT
);

CREATE TABLE oauth_entity_profiles (
    name TEXT PRIMARY KEY,
    oauth_entity TEXT NOT NULL,
    scopes TEXT NOT NULL,
    audience TEXT,
    resource TEXT NOT NULL,
    extra_parameters TEXT NOT NULL
);

CREATE TABLE credentials (
    name TEXT PRIMARY KEY,
    credential_id TEXT NOT NULL,
    resolver TEXT NOT NULL,
    oauth_entity_profile TEXT NOT NULL,
    applies_to TEXT NOT NULL
);

CREATE TABLE connections (
    alias TEXT PRIMARY KEY,
    base_url TEXT NOT NULL,
    credential TEXT NOT NULL,
    mid TEXT,
    timeout_ms BIGINT NOT NULL
);

-- What leases refer to, kept for as long as a request may name it.
CREATE TABLE config_documents (
    digest TEXT PRIMARY KEY,
    document TEXT NOT NULL
);

CREATE TABLE mids (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    public_key TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_seen_at BIGINT,
    -- JSON of the last heartbeat.
    heartbeat TEXT
);

CREATE TABLE enroll_tokens (
    id TEXT PRIMARY KEY,
    secret_hash TEXT NOT NULL UNIQUE,
    name TEXT,
    prevalidated INTEGER NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT
);

CREATE TABLE mid_tokens (
    token_hash TEXT PRIMARY KEY,
    mid_id TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);

-- Client assertions seen, until they expire (RFC 7523 section 3, point 7).
CREATE TABLE mid_assertions (
    mid_id TEXT NOT NULL,
    jti TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (mid_id, jti)
);

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL,
    connections TEXT NOT NULL,
    key_hash TEXT NOT NULL UNIQUE,
    prefix TEXT NOT NULL,
    first_admin INTEGER NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE requests (
    id TEXT PRIMARY KEY,
    connection TEXT NOT NULL,
    config_digest TEXT NOT NULL,
    -- Who may take it: a resolver's name, and MID identifiers as ",id,id," (empty: any MID).
    resolver TEXT NOT NULL,
    mids TEXT NOT NULL,
    -- 0 queued, 1 leased, 2 replied, 3 failed, 4 unknown.
    state INTEGER NOT NULL,
    -- 1: a repetition does no harm.
    repeatable INTEGER NOT NULL,
    epoch BIGINT NOT NULL,
    lease_mid TEXT,
    lease_incarnation TEXT,
    lease_batch BIGINT,
    lease_expires_at BIGINT,
    lease_ms BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    client_id TEXT NOT NULL,
    idempotency_key TEXT,
    fingerprint TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    call_json TEXT NOT NULL,
    outcome TEXT,
    trace TEXT
);

CREATE INDEX requests_queued ON requests (created_at, id) WHERE state = 0;
CREATE INDEX requests_queued_expiry ON requests (expires_at) WHERE state = 0;
CREATE INDEX requests_leased ON requests (lease_mid, lease_incarnation, lease_batch) WHERE state = 1;
CREATE UNIQUE INDEX requests_idempotency ON requests (client_id, idempotency_key) WHERE idempotency_key IS NOT NULL;
