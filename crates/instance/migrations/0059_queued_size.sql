-- With the size, so that what waits can be added up without reading it.
DROP INDEX requests_queued_expiry;
CREATE INDEX requests_queued_expiry ON requests (expires_at, size) WHERE state = 0;
