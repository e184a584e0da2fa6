-- Sealed values: nothing here can be read without the key that sealed it. The secrets of one job have
-- the owner 'job/<id>' and go with the record of the job; other owners have nothing to do with jobs.
CREATE TABLE secrets (
    owner  TEXT NOT NULL,
    key    TEXT NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (owner, key)
) STRICT;

CREATE TRIGGER a_deleted_job_takes_its_secrets AFTER DELETE ON jobs BEGIN
    DELETE FROM secrets WHERE owner = 'job/' || OLD.id;
END;
