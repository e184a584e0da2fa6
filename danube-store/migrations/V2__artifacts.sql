-- Records of artifacts. There is no foreign key: artifacts may be kept without a record of their job.
-- Where a job has one, its artifacts' records go with it.
CREATE TABLE artifacts (
    job_id           TEXT    NOT NULL,
    name             TEXT    NOT NULL,
    size_bytes       INTEGER NOT NULL,
    digest           TEXT    NOT NULL,
    content_type     TEXT    NOT NULL,
    state            TEXT    NOT NULL,
    created_at_ms    INTEGER NOT NULL,
    keep_for_seconds INTEGER,
    keep_forever     INTEGER NOT NULL,
    tags             TEXT    NOT NULL,
    PRIMARY KEY (job_id, name)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER a_deleted_job_takes_its_artifacts AFTER DELETE ON jobs BEGIN
    DELETE FROM artifacts WHERE job_id = OLD.id;
END;
