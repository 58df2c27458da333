-- Groups of MIDs, and terms on which requests are given out.

CREATE TABLE clusters (
    name TEXT PRIMARY KEY,
    mode TEXT NOT NULL,
    -- JSON: names of MIDs in order, networks as CIDR.
    mids TEXT NOT NULL,
    networks TEXT NOT NULL
);

ALTER TABLE connections ADD COLUMN cluster TEXT;
ALTER TABLE connections ADD COLUMN retry TEXT;
ALTER TABLE connections ADD COLUMN max_concurrent BIGINT;
ALTER TABLE connections ADD COLUMN max_per_minute BIGINT;

-- When the next request of a connection with a rate may start, in unix microseconds (GCRA). Who gives such requests out
-- locks the row.
CREATE TABLE connection_use (
    alias TEXT PRIMARY KEY,
    next_at BIGINT NOT NULL
);

-- The MID that gets a new key by it.
ALTER TABLE enroll_tokens ADD COLUMN mid_id TEXT;

-- 1: a MID may take it only when none before it in mids can.
ALTER TABLE requests ADD COLUMN ordered INTEGER NOT NULL DEFAULT 0;
-- 1: its connection has a concurrency or a rate.
ALTER TABLE requests ADD COLUMN limited INTEGER NOT NULL DEFAULT 0;
ALTER TABLE requests ADD COLUMN not_before BIGINT NOT NULL DEFAULT 0;
-- JSON of the policy by which it is tried again.
ALTER TABLE requests ADD COLUMN retry TEXT;
ALTER TABLE requests ADD COLUMN attempts BIGINT NOT NULL DEFAULT 0;
-- How the last attempt ended, while it waits for the next.
ALTER TABLE requests ADD COLUMN last_state INTEGER;
ALTER TABLE requests ADD COLUMN last_outcome TEXT;
ALTER TABLE requests ADD COLUMN last_trace TEXT;
-- 1: it failed for good after all attempts, and may be driven again.
ALTER TABLE requests ADD COLUMN dead INTEGER NOT NULL DEFAULT 0;

CREATE INDEX requests_dead ON requests (id) WHERE dead = 1;
CREATE INDEX requests_ordered ON requests (resolver, mids) WHERE state = 0 AND ordered = 1;
CREATE INDEX requests_limited_queued ON requests (connection) WHERE state = 0 AND limited = 1;
CREATE INDEX requests_limited_leased ON requests (connection) WHERE state = 1 AND limited = 1;
