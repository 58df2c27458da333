-- The epoch of the attempt that `last_outcome` is of: who reports it once more is known by it, also when the next attempt
-- was given out or has ended.
ALTER TABLE requests ADD COLUMN last_epoch BIGINT;
UPDATE requests SET last_epoch = epoch WHERE state = 0 AND lease_mid IS NULL AND last_outcome IS NOT NULL;
