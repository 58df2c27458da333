-- Whom a one-time secret admitted, and with which key: the same enrollment again is the same registration.
ALTER TABLE enroll_tokens ADD COLUMN used_by TEXT;
ALTER TABLE enroll_tokens ADD COLUMN used_key TEXT;
