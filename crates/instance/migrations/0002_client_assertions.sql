-- How assertions are signed that authenticate a client (RFC 7523). Both are optional.

ALTER TABLE oauth_entities ADD COLUMN assertion_audience TEXT;

ALTER TABLE oauth_entities ADD COLUMN assertion_algorithm TEXT;
