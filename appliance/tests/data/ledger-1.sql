-- A ledger as version 1 of the schema left it: its tables word for word, and rows in every state.
CREATE TABLE bundle(
  id INTEGER PRIMARY KEY,
  sha256 TEXT NOT NULL UNIQUE CHECK(length(sha256) = 64),
  classes TEXT NOT NULL CHECK(json_valid(classes)),
  first_seen TEXT NOT NULL) STRICT;

CREATE TABLE run(
  id INTEGER PRIMARY KEY,
  started_at TEXT NOT NULL,
  ended_at TEXT,
  end_reason TEXT CHECK(end_reason IN ('stop', 'crash', 'killed', 'fatal')),
  boot_id TEXT NOT NULL,
  host TEXT NOT NULL,
  version TEXT NOT NULL,
  provider TEXT NOT NULL,
  bundle_id INTEGER NOT NULL REFERENCES bundle(id)) STRICT;

CREATE TABLE folder(
  id INTEGER PRIMARY KEY,
  root BLOB NOT NULL UNIQUE,
  marker TEXT NOT NULL UNIQUE,
  adopted_at TEXT NOT NULL) STRICT;

CREATE TABLE content(
  sha256 BLOB PRIMARY KEY CHECK(length(sha256) = 32),
  size INTEGER NOT NULL CHECK(size > 0),
  first_seen TEXT NOT NULL,
  format TEXT,
  width INTEGER,
  height INTEGER,
  pixels_sha256 BLOB CHECK(length(pixels_sha256) = 32),
  microns_per_pixel REAL,
  thumbnail BLOB) STRICT, WITHOUT ROWID;
CREATE INDEX content_pixels ON content(pixels_sha256) WHERE pixels_sha256 IS NOT NULL;

-- One image content under one bundle.
CREATE TABLE job(
  id INTEGER PRIMARY KEY,
  sha256 BLOB NOT NULL REFERENCES content(sha256),
  bundle_id INTEGER NOT NULL REFERENCES bundle(id),
  state TEXT NOT NULL CHECK(state IN ('claimed', 'retry_wait', 'released', 'committed', 'rejected')),
  attempts INTEGER NOT NULL DEFAULT 0 CHECK(attempts >= 0),
  crashes INTEGER NOT NULL DEFAULT 0,
  kills INTEGER NOT NULL DEFAULT 0,
  token INTEGER NOT NULL DEFAULT 0,
  run_id INTEGER NOT NULL REFERENCES run(id),
  code TEXT,
  message TEXT,
  claimed_at TEXT NOT NULL,
  updated_at TEXT NOT NULL,
  UNIQUE(sha256, bundle_id)) STRICT;
CREATE INDEX job_state ON job(state);

-- One file that lay in the inbox.
CREATE TABLE file(
  id INTEGER PRIMARY KEY,
  path BLOB NOT NULL,
  path_text TEXT NOT NULL,
  case_id TEXT NOT NULL,
  dev INTEGER NOT NULL,
  ino INTEGER NOT NULL,
  size INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL,
  owner_uid INTEGER NOT NULL,
  sha256 BLOB REFERENCES content(sha256),
  job_id INTEGER REFERENCES job(id),
  state TEXT NOT NULL CHECK(state IN
    ('waiting', 'reported', 'filed', 'rejected', 'failed', 'refused', 'vanished', 'replaced', 'retrying', 'retried')),
  code TEXT,
  message TEXT,
  seen_at TEXT NOT NULL,
  filed_path BLOB,
  filed_at TEXT) STRICT;
CREATE UNIQUE INDEX file_open ON file(path, dev, ino, size, mtime_ns) WHERE filed_at IS NULL;
CREATE INDEX file_unfinished ON file(state) WHERE filed_at IS NULL;
CREATE INDEX file_job ON file(job_id);
CREATE INDEX file_sha ON file(sha256);
CREATE INDEX file_case ON file(case_id, seen_at);

CREATE TABLE report(
  id INTEGER PRIMARY KEY,
  job_id INTEGER NOT NULL UNIQUE REFERENCES job(id),
  created_at TEXT NOT NULL,
  verdict TEXT NOT NULL CHECK(verdict IN ('accepted', 'abstain', 'not_assessed')),
  verdict_reasons TEXT NOT NULL CHECK(json_valid(verdict_reasons)),
  class TEXT,
  leading_class TEXT NOT NULL,
  confidence REAL NOT NULL CHECK(confidence BETWEEN 0 AND 1),
  probabilities TEXT NOT NULL CHECK(json_valid(probabilities)),
  image_only TEXT CHECK(json_valid(image_only)),
  image_only_class TEXT,
  alpha_text REAL CHECK(alpha_text BETWEEN 0 AND 1),
  logits TEXT NOT NULL CHECK(json_valid(logits)),
  image_logits TEXT CHECK(json_valid(image_logits)),
  logits_without_text TEXT CHECK(json_valid(logits_without_text)),
  flags TEXT NOT NULL CHECK(json_valid(flags)),
  description TEXT,
  description_key INTEGER,
  description_tokens INTEGER,
  description_tokens_read INTEGER,
  description_read_until INTEGER,
  mean_token_logprob REAL,
  stop_reason TEXT,
  provider TEXT NOT NULL,
  provider_note TEXT,
  elapsed TEXT NOT NULL CHECK(json_valid(elapsed)),
  version TEXT NOT NULL) STRICT;
CREATE INDEX report_created ON report(created_at);
CREATE INDEX report_description ON report(description_key) WHERE description_key IS NOT NULL;

CREATE TRIGGER report_fixed BEFORE UPDATE ON report BEGIN SELECT RAISE(ABORT, 'a report never changes'); END;
CREATE TRIGGER report_kept BEFORE DELETE ON report BEGIN SELECT RAISE(ABORT, 'a report is never deleted'); END;

CREATE VIEW reports AS
SELECT r.id AS id, lower(hex(j.sha256)) AS image_sha256, f.path_text AS source, f.case_id AS case_id, f.seen_at AS received_at,
  r.created_at AS reported_at, r.class AS class, r.leading_class AS leading_class, r.confidence AS confidence,
  r.probabilities AS probabilities, r.image_only_class AS image_only_class, r.image_only AS image_only, r.alpha_text AS alpha_text,
  r.verdict AS verdict, r.verdict_reasons AS verdict_reasons, r.flags AS flags, r.description AS description,
  r.description_tokens AS description_tokens, r.description_tokens_read AS description_tokens_read,
  r.mean_token_logprob AS mean_token_logprob, r.stop_reason AS stop_reason, b.sha256 AS bundle_sha256, r.provider AS provider,
  r.elapsed AS elapsed_ms, c.width AS width, c.height AS height, c.format AS format, c.size AS size
FROM report r JOIN job j ON j.id = r.job_id JOIN bundle b ON b.id = j.bundle_id JOIN content c ON c.sha256 = j.sha256
  LEFT JOIN file f ON f.id = (SELECT min(id) FROM file WHERE job_id = j.id);

CREATE VIEW files AS
SELECT f.id AS id, f.path_text AS source, f.case_id AS case_id, nullif(lower(hex(f.sha256)), '') AS image_sha256, f.state AS state, f.code AS code,
  f.message AS message, r.id AS report_id, f.seen_at AS seen_at, f.filed_at AS filed_at, f.size AS size
FROM file f LEFT JOIN report r ON r.job_id = f.job_id;

PRAGMA application_id = 1296911938;
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;

INSERT INTO bundle VALUES(1, 'abababababababababababababababababababababababababababababababab', '["X","Y"]', '2025-12-31T23:00:00.000Z');
INSERT INTO run VALUES(1, '2026-01-01T00:00:00.000Z', '2026-01-02T00:00:00.000Z', 'stop', 'boot', 'host', '0.1.0', 'cpu', 1);
INSERT INTO run VALUES(2, '2026-01-02T00:00:00.000Z', NULL, NULL, 'boot', 'host', '0.1.0', 'cpu', 1);
INSERT INTO folder VALUES(1, x'2f7372762f696e626f78', 'a-marker', '2026-01-01T00:00:00.000Z');

-- 3,000 images with a report each, filed; every third a second time in another case; and 12 files in the other states.
CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) SELECT i FROM n;
INSERT INTO content SELECT unhex(printf('%064x', i)), 1000 + i, '2026-01-01T00:00:00.000Z', 'PNG', 64, 64, unhex(printf('%064x', i + 9000)), NULL, zeroblob(900)
  FROM n;
INSERT INTO job SELECT i, unhex(printf('%064x', i)), 1, 'committed', 1, 0, 0, i, 1, NULL, NULL, '2026-01-01T00:00:01.000Z', '2026-01-01T00:00:02.000Z' FROM n;
INSERT INTO file SELECT i, CAST(printf('S%d/%d.png', i % 40, i) AS BLOB), printf('S%d/%d.png', i % 40, i), printf('S%d', i % 40), 1, i, 1000 + i, i, 0,
  unhex(printf('%064x', i)), i, 'filed', NULL, NULL, printf('2026-01-01T%02d:%02d:01.500Z', i % 24, i % 60), CAST('/srv/done/x' AS BLOB),
  printf('2026-01-01T%02d:%02d:03.000Z', i % 24, i % 60) FROM n;
INSERT INTO file SELECT 3000 + i, CAST(printf('T/%d.png', i) AS BLOB), printf('T/%d.png', i), 'T', 1, 3000 + i, 1000 + i, i, 0,
  unhex(printf('%064x', i)), i, 'filed', NULL, NULL, '2026-01-02T01:00:01.000Z', CAST('/srv/done/y' AS BLOB), '2026-01-02T01:00:03.000Z' FROM n WHERE i % 3 = 0;
INSERT INTO report SELECT i, i, '2026-01-01T00:00:02.000Z', 'not_assessed', '["not_calibrated"]', 'Y', 'Y', 0.75, '{"X":0.25,"Y":0.75}', NULL, NULL, 0.5,
  '[0.0,1.1]', NULL, NULL, '[]', 'small round cells', 7, 3, 3, 17, -0.1, 'end_token', 'cpu', NULL, '{"decode":1.5}', '0.1.0' FROM n;
INSERT INTO file(path, path_text, case_id, dev, ino, size, mtime_ns, owner_uid, state, code, message, seen_at, filed_path, filed_at)
  SELECT CAST(state AS BLOB), state, '', 1, 9000, 5, 5, 0, state, code, code, '2026-01-02T02:00:00.000Z', place, iif(state IN ('waiting', 'reported', 'rejected', 'refused'), NULL, '2026-01-02T02:00:01.000Z')
  FROM (SELECT 'waiting' AS state, NULL AS code, NULL AS place UNION ALL VALUES('rejected', 'truncated', NULL), ('refused', 'whole_slide', NULL),
    ('failed', 'truncated', x'2f66'), ('vanished', NULL, NULL), ('replaced', NULL, NULL), ('retrying', 'truncated', x'2f67'), ('retried', 'truncated', x'2f68'));
DROP TABLE n;
