-- Grants other than client credentials (RFC 7523 2.1, RFC 8693), revocation (RFC 7009), and what a connection says of
-- sending a call twice. An entity whose token endpoint is looked up at its issuer has an empty token_url: SQLite cannot
-- take a NOT NULL away.

ALTER TABLE oauth_entities ADD COLUMN revocation_url TEXT;

ALTER TABLE oauth_entity_profiles ADD COLUMN grant_type TEXT NOT NULL DEFAULT '"client_credentials"';
ALTER TABLE oauth_entity_profiles ADD COLUMN jwt_bearer TEXT;
ALTER TABLE oauth_entity_profiles ADD COLUMN token_exchange TEXT;

ALTER TABLE connections ADD COLUMN replay_methods TEXT;
