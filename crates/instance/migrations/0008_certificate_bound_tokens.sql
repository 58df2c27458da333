-- 1: tokens are bound to the client's certificate (RFC 8705 section 3).
ALTER TABLE oauth_entities ADD COLUMN certificate_bound_tokens INTEGER NOT NULL DEFAULT 0;
