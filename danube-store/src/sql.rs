//! Every statement that this crate runs, in one place: a test prepares them all.

macro_rules! statements {
    ($($name:ident = $text:expr;)+) => {
        $(pub(crate) const $name: &str = $text;)+

        #[cfg(test)]
        pub(crate) const ALL: &[(&str, &str)] = &[$((stringify!($name), $name)),+];
    };
}

macro_rules! job_columns {
    () => {
        "id, name, state, lost_reason, message, created_at_ms, started_at_ms, finished_at_ms, \
         cancel_requested_at_ms, retention_days, work_dir, log_bytes, log_truncated, \
         log_deleted_at_ms, artifacts_deleted_at_ms"
    };
}

macro_rules! artifact_columns {
    () => {
        "job_id, name, id, size_bytes, digest, content_type, kind, state, created_at_ms, \
         archived_at_ms, keep_for_seconds, keep_forever, tags"
    };
}

statements! {
    CREATE_JOB = concat!("INSERT INTO jobs (", job_columns!(), ") \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) \
        ON CONFLICT (id) DO NOTHING");
    GET_JOB = concat!("SELECT ", job_columns!(), " FROM jobs WHERE id = ?1");
    // The cursor of the first page lies beyond every time and every id.
    LIST_JOBS = concat!("SELECT ", job_columns!(), " FROM jobs \
        WHERE (created_at_ms, id) < (?1, ?2) \
        ORDER BY created_at_ms DESC, id DESC LIMIT ?3");
    LIST_UNFINISHED_JOBS = concat!("SELECT ", job_columns!(), " FROM jobs \
        WHERE finished_at_ms IS NULL AND (created_at_ms, id) < (?1, ?2) \
        ORDER BY created_at_ms DESC, id DESC LIMIT ?3");
    // Not LIKE: '_' is an ordinary character of ids, and case counts.
    MATCHING_JOBS = "SELECT id FROM jobs \
        WHERE substr(id, 1, ?2) = ?1 OR substr(id, -?2) = ?1 \
        ORDER BY created_at_ms DESC, id DESC LIMIT ?3";
    TALLY_JOBS = "SELECT state, lost_reason FROM jobs";
    // What never changes after the creation of a job is not written again.
    UPDATE_JOB = "UPDATE jobs SET state = ?2, lost_reason = ?3, message = ?4, started_at_ms = ?5, \
        finished_at_ms = ?6, cancel_requested_at_ms = ?7, log_bytes = ?8, log_truncated = ?9, \
        log_deleted_at_ms = ?10, artifacts_deleted_at_ms = ?11 WHERE id = ?1";
    GET_STEPS = "SELECT position, name, command, state, exit_code, signal, started_at_ms, \
        finished_at_ms, log_start, log_end FROM steps WHERE job_id = ?1 ORDER BY position";
    PUT_STEP = "INSERT INTO steps (job_id, position, name, command, state, exit_code, signal, \
        started_at_ms, finished_at_ms, log_start, log_end) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) \
        ON CONFLICT (job_id, position) DO UPDATE SET name = excluded.name, \
        command = excluded.command, state = excluded.state, exit_code = excluded.exit_code, \
        signal = excluded.signal, started_at_ms = excluded.started_at_ms, \
        finished_at_ms = excluded.finished_at_ms, log_start = excluded.log_start, \
        log_end = excluded.log_end";

    PUT_ARTIFACT = concat!("INSERT INTO artifacts (", artifact_columns!(), ") \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) \
        ON CONFLICT (job_id, name) DO UPDATE SET id = excluded.id, \
        size_bytes = excluded.size_bytes, digest = excluded.digest, \
        content_type = excluded.content_type, kind = excluded.kind, state = excluded.state, \
        created_at_ms = excluded.created_at_ms, archived_at_ms = excluded.archived_at_ms, \
        keep_for_seconds = excluded.keep_for_seconds, keep_forever = excluded.keep_forever, \
        tags = excluded.tags");
    OTHER_ARTIFACT_OF_ID = "SELECT 1 FROM artifacts \
        WHERE id = ?1 AND (job_id, name) <> (?2, ?3)";
    FIND_ARTIFACT = concat!("SELECT ", artifact_columns!(), " FROM artifacts WHERE id = ?1");
    GET_ARTIFACT = concat!("SELECT ", artifact_columns!(), " FROM artifacts \
        WHERE job_id = ?1 AND name = ?2");
    // No name is empty: the first page begins after the empty name.
    LIST_ARTIFACTS = concat!("SELECT ", artifact_columns!(), " FROM artifacts \
        WHERE job_id = ?1 AND name > ?2 ORDER BY name LIMIT ?3");
    ALL_ARTIFACTS = concat!("SELECT ", artifact_columns!(), " FROM artifacts \
        WHERE (job_id, name) > (?1, ?2) ORDER BY job_id, name LIMIT ?3");
    REMOVE_ARTIFACT = "DELETE FROM artifacts WHERE job_id = ?1 AND name = ?2";

    REPLACE_SECRET = "UPDATE secrets SET sealed = ?3 WHERE owner = ?1 AND key = ?2";
    COUNT_SECRETS = "SELECT count(*) FROM secrets WHERE owner = ?1";
    INSERT_SECRET = "INSERT INTO secrets (owner, key, sealed) VALUES (?1, ?2, ?3)";
    GET_SECRET = "SELECT sealed FROM secrets WHERE owner = ?1 AND key = ?2";
    DELETE_SECRET = "DELETE FROM secrets WHERE owner = ?1 AND key = ?2";
    LIST_SECRETS = "SELECT key FROM secrets WHERE owner = ?1 ORDER BY key";
    REPLACE_SECRET_IF = "UPDATE secrets SET sealed = ?4 \
        WHERE owner = ?1 AND key = ?2 AND sealed = ?3";
    SECRET_OWNERS = "SELECT DISTINCT owner FROM secrets WHERE owner > ?1 ORDER BY owner LIMIT ?2";

    RECORD_EVENT = "INSERT INTO audit (at_ms, actor, action, object, outcome) \
        VALUES (?1, ?2, ?3, ?4, ?5)";
    DROP_OLD_EVENTS = "DELETE FROM audit WHERE number <= (SELECT max(number) FROM audit) - ?1";
    LIST_EVENTS = "SELECT number, at_ms, actor, action, object, outcome FROM audit \
        WHERE number < ?1 ORDER BY number DESC LIMIT ?2";

    SCHEMA_VERSION = "SELECT max(version) FROM refinery_schema_history";
    SCHEMA_HISTORY = "SELECT version, name, applied_on, checksum FROM refinery_schema_history \
        ORDER BY version";
    TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' \
        ESCAPE '\\'";
}
