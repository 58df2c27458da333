-- 1: tokens are bound to a key of the MID Server's (RFC 9449).
ALTER TABLE oauth_entities ADD COLUMN dpop_bound_tokens INTEGER NOT NULL DEFAULT 0;
