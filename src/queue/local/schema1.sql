-- Schema version 1. The order of arrival is `containers.id`: it is never used twice (AUTOINCREMENT), also after a purge.
CREATE TABLE containers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL,
    priority INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    attempt INTEGER NOT NULL DEFAULT 0,
    instance TEXT,
    instance_type TEXT,
    exit_code INTEGER,
    error TEXT NOT NULL DEFAULT '',
    warning TEXT NOT NULL DEFAULT '',
    activity TEXT NOT NULL DEFAULT '',
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    -- The attempt that an operator asked to kill; 0 = none.
    kill_asked INTEGER NOT NULL DEFAULT 0,
    -- How many of its predecessors have not succeeded yet.
    waiting INTEGER NOT NULL DEFAULT 0,
    cost REAL NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX containers_by_state ON containers (state);
CREATE INDEX containers_by_end ON containers (finished_at) WHERE finished_at IS NOT NULL;

-- Who waits for whom; a row goes when the predecessor is final.
CREATE TABLE followers (
    predecessor INTEGER NOT NULL,
    follower INTEGER NOT NULL,
    PRIMARY KEY (predecessor, follower)
) STRICT, WITHOUT ROWID;

CREATE TABLE attempts (
    container INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    instance TEXT NOT NULL,
    instance_type TEXT NOT NULL,
    -- Per hour, when the start was decided.
    price REAL NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at INTEGER,
    exit_code INTEGER,
    signal INTEGER,
    reason TEXT NOT NULL DEFAULT '',
    peak_memory INTEGER,
    cpu_seconds REAL,
    cost REAL NOT NULL DEFAULT 0,
    -- 1 = it was closed by its result, so that the same result again is no late one.
    collected INTEGER NOT NULL DEFAULT 0,
    late_result TEXT,
    PRIMARY KEY (container, attempt)
) STRICT, WITHOUT ROWID;

-- The submission itself is not in here: its time is `containers.created_at`.
CREATE TABLE history (
    id INTEGER PRIMARY KEY,
    container INTEGER NOT NULL,
    time INTEGER NOT NULL,
    event TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
CREATE INDEX history_by_container ON history (container);

-- Uuids of a submission, in its order, one a line. Kept until the last of them is purged.
CREATE TABLE tokens (
    token TEXT PRIMARY KEY,
    uuids TEXT NOT NULL,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tokens_by_id ON tokens (last_id);

CREATE TABLE batches (
    batch TEXT PRIMARY KEY,
    touched_at INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    -- Ends of lines so far.
    lines INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE pieces (
    id INTEGER PRIMARY KEY,
    batch TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX pieces_by_batch ON pieces (batch);

-- One row that is written to find out whether writing works again.
CREATE TABLE probe (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    time INTEGER NOT NULL
) STRICT;
INSERT INTO probe VALUES (1, 0);
