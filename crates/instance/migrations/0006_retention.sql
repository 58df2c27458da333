-- Finished requests by age, for their removal.
CREATE INDEX requests_finished ON requests (finished_at) WHERE finished_at IS NOT NULL;
