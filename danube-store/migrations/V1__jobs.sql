-- Jobs and their steps. Times are milliseconds since 1970 in UTC; a job is unfinished as long as it has
-- no finished_at_ms. Text is compared byte by byte.
CREATE TABLE jobs (
    id                      TEXT    NOT NULL PRIMARY KEY,
    name                    TEXT    NOT NULL,
    state                   TEXT    NOT NULL,
    lost_reason             TEXT,
    message                 TEXT,
    created_at_ms           INTEGER NOT NULL,
    started_at_ms           INTEGER,
    finished_at_ms          INTEGER,
    cancel_requested_at_ms  INTEGER,
    retention_days          INTEGER,
    work_dir                TEXT    NOT NULL,
    log_bytes               INTEGER NOT NULL,
    log_truncated           INTEGER NOT NULL,
    log_deleted_at_ms       INTEGER,
    artifacts_deleted_at_ms INTEGER,
    CHECK ((state = 'lost') = (lost_reason IS NOT NULL)),
    CHECK ((state IN ('pending', 'starting', 'running')) = (finished_at_ms IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX jobs_by_age ON jobs (created_at_ms DESC, id DESC);

CREATE INDEX jobs_unfinished ON jobs (created_at_ms DESC, id DESC) WHERE finished_at_ms IS NULL;

CREATE TABLE steps (
    job_id         TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    position       INTEGER NOT NULL,
    name           TEXT    NOT NULL,
    command        TEXT    NOT NULL,
    state          TEXT    NOT NULL,
    exit_code      INTEGER,
    signal         INTEGER,
    started_at_ms  INTEGER,
    finished_at_ms INTEGER,
    log_start      INTEGER,
    log_end        INTEGER,
    PRIMARY KEY (job_id, position),
    UNIQUE (job_id, name),
    CHECK ((log_start IS NULL) = (log_end IS NULL))
) STRICT, WITHOUT ROWID;
