-- Resolver JARs that MIDs may fetch. A MID names the digest that it wants and decides by its own policy.

CREATE TABLE jars (
    name TEXT NOT NULL PRIMARY KEY,
    sha256 TEXT NOT NULL,
    size BIGINT NOT NULL,
    content BLOB NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE INDEX jars_by_sha256 ON jars (sha256);
