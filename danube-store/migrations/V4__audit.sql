-- Who touched what, in the order in which it was recorded. Nothing here is ever a secret's value.
CREATE TABLE audit (
    number  INTEGER NOT NULL PRIMARY KEY,
    at_ms   INTEGER NOT NULL,
    actor   TEXT    NOT NULL,
    action  TEXT    NOT NULL,
    object  TEXT    NOT NULL,
    outcome TEXT    NOT NULL
) STRICT;

CREATE TRIGGER what_was_recorded_is_not_changed BEFORE UPDATE ON audit BEGIN
    SELECT RAISE(ABORT, 'what was recorded is not changed');
END;
