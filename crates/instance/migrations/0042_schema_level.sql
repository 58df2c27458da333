-- One row: the level of this schema, and the lowest level of a program that may run on it. A release that changes the
-- schema counts the level up in its last migration, and sets `runs_from` to it where older programs would do harm.
CREATE TABLE schema_level (
    id INTEGER PRIMARY KEY,
    level BIGINT NOT NULL,
    runs_from BIGINT NOT NULL
);
INSERT INTO schema_level (id, level, runs_from) VALUES (1, 1, 1);
