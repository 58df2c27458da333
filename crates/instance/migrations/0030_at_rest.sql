-- Large texts in pieces, connections that keep metadata only, and the keys that rows were encrypted with.

CREATE TABLE request_pieces (
    request_id TEXT NOT NULL REFERENCES requests (id) ON DELETE CASCADE,
    -- `call`, or `outcome-` and the epoch.
    piece_set TEXT NOT NULL,
    number BIGINT NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (request_id, piece_set, number)
);

-- When a key was last known to be written with.
CREATE TABLE encryption_keys (
    id TEXT PRIMARY KEY,
    used_at BIGINT NOT NULL
);

-- `everything`, or `metadata`: of its requests, bodies and headers are removed once they are not needed.
ALTER TABLE connections ADD COLUMN keep TEXT NOT NULL DEFAULT 'everything';

-- 0 everything is kept; 1 metadata only, nobody waits for the answer; 2 metadata only, the caller waits for it at
-- `origin`; 3 bodies and headers are gone.
ALTER TABLE requests ADD COLUMN keep INTEGER NOT NULL DEFAULT 0;
-- Of call and outcome as they are stored, in bytes.
ALTER TABLE requests ADD COLUMN size BIGINT NOT NULL DEFAULT 0;

CREATE INDEX requests_to_reduce ON requests (finished_at) WHERE keep = 2 AND finished_at IS NOT NULL;
-- With the size, so that what is kept can be added up without reading it.
DROP INDEX requests_finished;
CREATE INDEX requests_finished ON requests (finished_at, size) WHERE finished_at IS NOT NULL;
