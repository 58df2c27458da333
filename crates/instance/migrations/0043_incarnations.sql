-- Two MIDs with one key are told apart: an incarnation that another one has superseded does not come back on its own.

-- The last ones, newest first, as ",incarnation,incarnation,".
ALTER TABLE mids ADD COLUMN superseded TEXT NOT NULL DEFAULT ',';
-- How often one of them spoke since the present one came, and when last.
ALTER TABLE mids ADD COLUMN fenced BIGINT NOT NULL DEFAULT 0;
ALTER TABLE mids ADD COLUMN fenced_at BIGINT;
