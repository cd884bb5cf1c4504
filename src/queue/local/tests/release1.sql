-- A queue as the first release left it (schema version 1), with containers in all states. It was made by that release and never changes.
PRAGMA application_id = 0x4d757374;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
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
INSERT INTO "attempts" VALUES(4,1,'i-1','big',0.36,1790000004250,NULL,NULL,NULL,'',NULL,NULL,0.0,0,NULL);
INSERT INTO "attempts" VALUES(5,1,'i-1','big',0.36,1790000005750,NULL,NULL,NULL,'',NULL,NULL,0.0,0,NULL);
INSERT INTO "attempts" VALUES(6,1,'i-2','big',0.36,1790000007250,NULL,NULL,NULL,'',NULL,NULL,0.0,0,NULL);
INSERT INTO "attempts" VALUES(7,1,'i-2','big',0.36,1790000008750,NULL,NULL,NULL,'',NULL,NULL,0.0,0,NULL);
INSERT INTO "attempts" VALUES(8,1,'i-3','big',0.36,1790000010250,1790003610500,NULL,NULL,'its instance is gone',NULL,NULL,0.360025,0,'exited with code 0');
INSERT INTO "attempts" VALUES(8,2,'i-1','big',0.36,1790003610750,NULL,NULL,NULL,'',NULL,NULL,0.0,0,NULL);
INSERT INTO "attempts" VALUES(9,1,'i-1','big',0.36,1790003612250,1790005412500,0,NULL,'exited with code 0',12345678,1.5,0.180025,1,NULL);
INSERT INTO "attempts" VALUES(10,1,'i-1','big',0.36,1790005413750,1790005414000,NULL,9,'ended by signal 9',NULL,NULL,2.5e-05,1,NULL);
INSERT INTO "attempts" VALUES(12,1,'i-4','big',0.36,1790005416250,1790005416500,NULL,NULL,'its runner ended without a result',NULL,NULL,2.5e-05,0,NULL);
CREATE TABLE batches (
    batch TEXT PRIMARY KEY,
    touched_at INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    -- Ends of lines so far.
    lines INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "batches" VALUES('c531p88rb6w334jmoa3ef9x2p',1790005420500,90,2);
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
INSERT INTO "containers" VALUES(1,'local-dz642-a786e66qmzen9ar','queued','{"array_index":4,"command":["sh","-c","echo ''it''''s''"],"cwd":"/w","environment":{"A":"b c"},"max_attempts":2,"mounts":{"/tmp":{"capacity":5,"kind":"tmp"}},"name":"queued","outputs":["o"],"priority":7,"runtime_constraints":{"gpu":{"device_count":1,"driver_version":"12.2","hardware_target":["8.0"],"stack":"cuda","vram":8589934592},"keep_cache_disk":2,"keep_cache_ram":1,"ram":1073741824,"vcpus":2},"scheduling_parameters":{"max_run_time":60.5,"preemptible":true,"supervisor":true},"stdin":"in\nput"}','Queued',9,2,1790000001000,NULL,NULL,0,NULL,NULL,NULL,'','','',0,0,0,0.0);
INSERT INTO "containers" VALUES(2,'local-dz642-uc37kyouohn9fpv','on hold','{"command":["true"],"max_attempts":3,"name":"on hold","priority":0,"runtime_constraints":{"ram":268435456,"vcpus":1},"scheduling_parameters":{}}','Queued',0,3,1790000002000,NULL,NULL,0,NULL,NULL,NULL,'','','',0,0,0,0.0);
INSERT INTO "containers" VALUES(3,'local-dz642-jn5ta7nn3myt17b','locked','{"command":["true"],"max_attempts":3,"name":"locked","priority":500,"runtime_constraints":{"ram":268435456,"vcpus":1},"scheduling_parameters":{}}','Locked',500,3,1790000003000,NULL,NULL,0,NULL,NULL,NULL,'','','',0,0,0,0.0);
INSERT INTO "containers" VALUES(4,'local-dz642-ggoxkloluxlkqju','sent','{"command":["true"],"max_attempts":3,"name":"sent","priority":500,"runtime_constraints":{"ram":268435456,"vcpus":1},"scheduling_parameters":{}}','Locked',500,3,1790000004000,NULL,NULL,1,'i-1','big',NULL,'','','',0,0,0,0.0);
INSERT INTO "containers" VALUES(5,'local-dz642-j39dygxzeudh66w','running','{"command":["true"],"max_attempts":3,"name":"running","priority":500,"runtime_constraints":{"ram":268435456,"vcpus":1},"scheduling_parameters":{}}','Running',500,3,1790000005500,1790000006000,NULL,1,'i-1','big',NULL,'','','',0,0,0,0.0);
INSERT INTO "containers" VALUES(6,'local-dz642-iwzege2hjc35mjp','being cancelled','{"command":["true"],"max_attempts":3,"name":"being cancelled","priority":500,"runtime_constraints":{"ram":268435456,"vcpus":1},"scheduling_parameters":{}}','Running',0,3,1790000007000,1790000007500,NULL,1,'i-2','big',NULL,'','','',1,0,0,0.0);
INSERT INTO "containers" VALUES(7,'local-dz642-f6s1rs44hlvl31i','kill asked','{"command":["true"],"max_attempts":3,"name":"kill asked","priority":500,"runtime_constraints":{"ram":268435456,"vcpus":1},"scheduling_parameters":{}}','Locked',500,3,1790000008500,NULL,NULL,1,'i-2','big',NULL,'','','',0,1,0,0.0);
INSERT INTO "containers" VALUES(8,'local-dz642-soq10djfhn2onef','second attempt','{"command":["true"],"max_attempts":3,"name":"second attempt","priority":500,"runtime_constraints":{"ram":268435456,"vcpus":1},"scheduling_parameters":{}}','Running',500,3,1790000010000,1790003611000,NULL,2,'i-1','big',NULL,'','attempt 1 was lost: its instance is gone','',0,0,0,0.360025);
INSERT INTO "containers" VALUES(9,'local-dz642-1jc0o2h2p180tpw','complete','{"command":["true"],"max_attempts":3,"name":"complete","priority":500,"runtime_constraints":{"ram":268435456,"vcpus":1},"scheduling_parameters":{}}','Complete',500,3,1790003612000,1790003612500,1790005312500,1,'i-1','big',0,'','output left out: a: a link','',0,0,0,0.180025);
INSERT INTO "containers" VALUES(10,'local-dz642-0b76rwjluzoeac1','failed','{"command":["true"],"max_attempts":3,"name":"failed","priority":500,"runtime_constraints":{"ram":268435456,"vcpus":1},"scheduling_parameters":{}}','Complete',500,3,1790005413500,1790005413750,1790005414000,1,'i-1','big',137,'','','',0,0,0,2.5e-05);
INSERT INTO "containers" VALUES(11,'local-dz642-we4qp0069ucf07p','cancelled','{"command":["true"],"max_attempts":3,"name":"cancelled","priority":500,"runtime_constraints":{"ram":268435456,"vcpus":1},"scheduling_parameters":{}}','Cancelled',0,3,1790005415000,NULL,1790005415000,0,NULL,NULL,NULL,'cancelled on request','','',1,0,0,0.0);
INSERT INTO "containers" VALUES(12,'local-dz642-e7p820qmyeti5hx','exhausted','{"command":["true"],"max_attempts":1,"name":"exhausted","priority":500,"runtime_constraints":{"ram":268435456,"vcpus":1},"scheduling_parameters":{}}','Cancelled',500,1,1790005416000,NULL,1790005416500,1,'i-4','big',NULL,'lost 1 time; attempt 1 on i-4: its runner ended without a result','','',0,0,0,2.5e-05);
INSERT INTO "containers" VALUES(13,'local-dz642-u4seivvexmjr5au','follower','{"after":["local-dz642-j39dygxzeudh66w","local-dz642-1jc0o2h2p180tpw","local-dz642-ggoxkloluxlkqju"],"command":["true"],"max_attempts":3,"name":"follower","priority":500,"runtime_constraints":{"ram":268435456,"vcpus":1},"scheduling_parameters":{}}','Queued',500,3,1790005417500,NULL,NULL,0,NULL,NULL,NULL,'','','',0,0,2,0.0);
INSERT INTO "containers" VALUES(14,'local-dz642-rtuuboj191gwyat','follower of failed','{"after":["local-dz642-0b76rwjluzoeac1"],"command":["true"],"max_attempts":3,"name":"follower of failed","priority":500,"runtime_constraints":{"ram":268435456,"vcpus":1},"scheduling_parameters":{}}','Cancelled',500,3,1790005418500,NULL,1790005418500,0,NULL,NULL,NULL,'local-dz642-0b76rwjluzoeac1, which had to succeed first, ended with exit code 137','','',0,0,0,0.0);
INSERT INTO "containers" VALUES(15,'local-dz642-0i4eyq46ajmrsea','purged','{"command":["true"],"max_attempts":3,"name":"purged","priority":500,"runtime_constraints":{"ram":268435456,"vcpus":1},"scheduling_parameters":{}}','Cancelled',0,3,1790005419500,NULL,1790005419500,0,NULL,NULL,NULL,'cancelled on request','','',1,0,0,0.0);
INSERT INTO "containers" VALUES(16,'local-dz642-55ddg6xab6x6lzg','by token 1','{"command":["true"],"max_attempts":3,"name":"by token 1","priority":500,"runtime_constraints":{"ram":268435456,"vcpus":1},"scheduling_parameters":{}}','Queued',500,3,1790005419500,NULL,NULL,0,NULL,NULL,NULL,'','','',0,0,0,0.0);
INSERT INTO "containers" VALUES(17,'local-dz642-vbysbt3t5794klp','by token 2','{"command":["true"],"max_attempts":3,"name":"by token 2","priority":500,"runtime_constraints":{"ram":268435456,"vcpus":1},"scheduling_parameters":{}}','Queued',500,3,1790005419500,NULL,NULL,0,NULL,NULL,NULL,'','','',0,0,0,0.0);
CREATE TABLE followers (
    predecessor INTEGER NOT NULL,
    follower INTEGER NOT NULL,
    PRIMARY KEY (predecessor, follower)
) STRICT, WITHOUT ROWID;
INSERT INTO "followers" VALUES(4,13);
INSERT INTO "followers" VALUES(5,13);
CREATE TABLE history (
    id INTEGER PRIMARY KEY,
    container INTEGER NOT NULL,
    time INTEGER NOT NULL,
    event TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
INSERT INTO "history" VALUES(1,1,1790000001000,'priority changed','7 to 9');
INSERT INTO "history" VALUES(2,3,1790000003000,'locked','');
INSERT INTO "history" VALUES(3,4,1790000004000,'locked','');
INSERT INTO "history" VALUES(4,4,1790000004250,'assigned','attempt 1 to i-1 (big)');
INSERT INTO "history" VALUES(5,5,1790000005500,'locked','');
INSERT INTO "history" VALUES(6,5,1790000005750,'assigned','attempt 1 to i-1 (big)');
INSERT INTO "history" VALUES(7,5,1790000006000,'running','attempt 1');
INSERT INTO "history" VALUES(8,6,1790000007000,'locked','');
INSERT INTO "history" VALUES(9,6,1790000007250,'assigned','attempt 1 to i-2 (big)');
INSERT INTO "history" VALUES(10,6,1790000007500,'running','attempt 1');
INSERT INTO "history" VALUES(11,6,1790000007500,'cancel requested','');
INSERT INTO "history" VALUES(12,7,1790000008500,'locked','');
INSERT INTO "history" VALUES(13,7,1790000008750,'assigned','attempt 1 to i-2 (big)');
INSERT INTO "history" VALUES(14,7,1790000009000,'kill asked','');
INSERT INTO "history" VALUES(15,8,1790000010000,'locked','');
INSERT INTO "history" VALUES(16,8,1790000010250,'assigned','attempt 1 to i-3 (big)');
INSERT INTO "history" VALUES(17,8,1790003610500,'lost','attempt 1: its instance is gone');
INSERT INTO "history" VALUES(18,8,1790003610500,'requeued','');
INSERT INTO "history" VALUES(19,8,1790003610500,'late result','attempt 1: exited with code 0');
INSERT INTO "history" VALUES(20,8,1790003610500,'locked','');
INSERT INTO "history" VALUES(21,8,1790003610750,'assigned','attempt 2 to i-1 (big)');
INSERT INTO "history" VALUES(22,8,1790003611000,'running','attempt 2');
INSERT INTO "history" VALUES(23,9,1790003612000,'locked','');
INSERT INTO "history" VALUES(24,9,1790003612250,'assigned','attempt 1 to i-1 (big)');
INSERT INTO "history" VALUES(25,9,1790003612500,'running','attempt 1');
INSERT INTO "history" VALUES(26,9,1790005412500,'finished','attempt 1: exited with code 0');
INSERT INTO "history" VALUES(27,10,1790005413500,'locked','');
INSERT INTO "history" VALUES(28,10,1790005413750,'assigned','attempt 1 to i-1 (big)');
INSERT INTO "history" VALUES(29,10,1790005414000,'finished','attempt 1: ended by signal 9');
INSERT INTO "history" VALUES(30,11,1790005415000,'cancel requested','');
INSERT INTO "history" VALUES(31,11,1790005415000,'cancelled','cancelled on request');
INSERT INTO "history" VALUES(32,12,1790005416000,'locked','');
INSERT INTO "history" VALUES(33,12,1790005416250,'assigned','attempt 1 to i-4 (big)');
INSERT INTO "history" VALUES(34,12,1790005416500,'lost','attempt 1: its runner ended without a result');
INSERT INTO "history" VALUES(35,12,1790005416500,'cancelled','lost 1 time; attempt 1 on i-4: its runner ended without a result');
INSERT INTO "history" VALUES(36,14,1790005418500,'cancelled','local-dz642-0b76rwjluzoeac1, which had to succeed first, ended with exit code 137');
INSERT INTO "history" VALUES(37,15,1790005419500,'cancel requested','');
INSERT INTO "history" VALUES(38,15,1790005419500,'cancelled','cancelled on request');
CREATE TABLE pieces (
    id INTEGER PRIMARY KEY,
    batch TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;
INSERT INTO "pieces" VALUES(1,'c531p88rb6w334jmoa3ef9x2p',X'7B22636F6D6D616E64223A5B2274727565225D2C226E616D65223A226F66207468652062617463682031227D0A7B22636F6D6D616E64223A5B227472');
INSERT INTO "pieces" VALUES(2,'c531p88rb6w334jmoa3ef9x2p',X'7565225D2C226E616D65223A226F66207468652062617463682032227D0A');
CREATE TABLE probe (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    time INTEGER NOT NULL
) STRICT;
INSERT INTO "probe" VALUES(1,0);
CREATE TABLE tokens (
    token TEXT PRIMARY KEY,
    uuids TEXT NOT NULL,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO "tokens" VALUES('a token','local-dz642-55ddg6xab6x6lzg
local-dz642-vbysbt3t5794klp',16,17);
CREATE INDEX containers_by_state ON containers (state);
CREATE INDEX containers_by_end ON containers (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX history_by_container ON history (container);
CREATE INDEX tokens_by_id ON tokens (last_id);
CREATE INDEX pieces_by_batch ON pieces (batch);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('containers',17);
COMMIT;
