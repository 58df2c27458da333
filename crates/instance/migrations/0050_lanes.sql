-- What waits and cannot be served is in nobody's way: what is due is found by who may take it, on what terms, and the
-- rest is not read.

-- Until when it is kept apart from what is due. NULL: it is due, or not queued.
ALTER TABLE requests ADD COLUMN delayed_until BIGINT;
UPDATE requests SET delayed_until = not_before WHERE state = 0 AND not_before > 0;

DROP INDEX requests_queued;
DROP INDEX requests_ordered;
DROP INDEX requests_limited_queued;
DROP INDEX requests_queued_expiry;
CREATE INDEX requests_queued_expiry ON requests (expires_at, created_at) WHERE state = 0;
CREATE INDEX requests_delayed ON requests (delayed_until) WHERE state = 0 AND delayed_until IS NOT NULL;
-- The lane, as in store/lanes.rs. A long list of MIDs does not fit into an index: its ends stand for it.
CREATE INDEX requests_due ON requests ((
    CASE WHEN priority = 0 THEN '0' ELSE '1' END || CASE WHEN ordered = 1 THEN '1' ELSE '0' END || ' ' || resolver
    || ' ' || CASE WHEN limited = 1 THEN connection ELSE '' END || ' '
    || CASE WHEN length(mids) > 1500 THEN '+' || connection || substr(mids, 1, 600) || substr(mids, length(mids) - 599)
       ELSE mids END
), connection, created_at, id) WHERE state = 0 AND delayed_until IS NULL;
