-- The requests of one connection, or of one client, newest first.
CREATE INDEX requests_by_connection ON requests (connection, id);
CREATE INDEX requests_by_client ON requests (client_id, id);
