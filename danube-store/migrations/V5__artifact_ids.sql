-- An id for every artifact, what sort of thing it is, and when it was archived. The table is made anew: a column that
-- is added cannot demand a value that differs from row to row.
DROP TRIGGER a_deleted_job_takes_its_artifacts;

ALTER TABLE artifacts RENAME TO artifacts_before_ids;

CREATE TABLE artifacts (
    job_id           TEXT    NOT NULL,
    name             TEXT    NOT NULL,
    id               TEXT    NOT NULL,
    size_bytes       INTEGER NOT NULL,
    digest           TEXT    NOT NULL,
    content_type     TEXT    NOT NULL,
    -- NULL where nobody recorded it: then the name and the content type tell.
    kind             TEXT,
    state            TEXT    NOT NULL,
    created_at_ms    INTEGER NOT NULL,
    archived_at_ms   INTEGER,
    keep_for_seconds INTEGER,
    keep_forever     INTEGER NOT NULL,
    tags             TEXT    NOT NULL,
    PRIMARY KEY (job_id, name)
) STRICT, WITHOUT ROWID;

-- Every artifact that was there gets a UUID version 7 of the time when it was stored.
INSERT INTO artifacts
SELECT job_id, name,
    printf('%s-%s-7%s-%s%s-%s',
        substr(printf('%012x', max(created_at_ms, 0)), 1, 8),
        substr(printf('%012x', max(created_at_ms, 0)), 9, 4),
        substr(lower(hex(randomblob(2))), 1, 3),
        substr('89ab', 1 + (random() & 3), 1),
        substr(lower(hex(randomblob(2))), 1, 3),
        lower(hex(randomblob(6)))),
    size_bytes, digest, content_type, NULL, state, created_at_ms, NULL, keep_for_seconds,
    keep_forever, tags
FROM artifacts_before_ids;

DROP TABLE artifacts_before_ids;

-- States and times of expiry have no index: nothing asks by them. What may go is decided over all records, with what
-- the jobs and the configuration say.
CREATE UNIQUE INDEX artifacts_by_id ON artifacts (id);

CREATE TRIGGER a_deleted_job_takes_its_artifacts AFTER DELETE ON jobs BEGIN
    DELETE FROM artifacts WHERE job_id = OLD.id;
END;
