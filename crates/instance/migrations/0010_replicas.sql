-- What several instances on one database share.

-- Set by an administrator or by the MID when it shuts down; ends with the next incarnation.
ALTER TABLE mids ADD COLUMN draining INTEGER NOT NULL DEFAULT 0;
ALTER TABLE mids ADD COLUMN incarnation TEXT NOT NULL DEFAULT '';
-- Counts every change but that of last_seen_at.
ALTER TABLE mids ADD COLUMN version BIGINT NOT NULL DEFAULT 0;
-- The replica that its last poll reached: the only one that may give it leases.
ALTER TABLE mids ADD COLUMN polls_at TEXT;

-- One row: when leases were looked at last, by any replica, and since when this has happened without a pause.
CREATE TABLE sweeps (
    id INTEGER PRIMARY KEY,
    swept_at BIGINT NOT NULL,
    alive_since BIGINT NOT NULL
);
INSERT INTO sweeps (id, swept_at, alive_since) VALUES (1, 0, 0);

-- One row: counts changes of records, MIDs and API keys. Who changes one locks it first.
CREATE TABLE changes (
    id INTEGER PRIMARY KEY,
    number BIGINT NOT NULL
);
INSERT INTO changes (id, number) VALUES (1, 0);

-- The replica that took the request: its caller may wait there.
ALTER TABLE requests ADD COLUMN origin TEXT NOT NULL DEFAULT '';
-- 1: a MID that had it was lost, so it may have been sent.
ALTER TABLE requests ADD COLUMN unsure INTEGER NOT NULL DEFAULT 0;
