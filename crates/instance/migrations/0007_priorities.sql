-- 0 interactive, 1 standard: who waits for an answer goes first.
ALTER TABLE requests ADD COLUMN priority INTEGER NOT NULL DEFAULT 1;
DROP INDEX requests_queued;
CREATE INDEX requests_queued ON requests (priority, created_at, id) WHERE state = 0;
