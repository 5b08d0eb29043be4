-- A ledger of version 2: its schema as that version wrote it, with one reported, one failed and one waiting file.
PRAGMA application_id = 1296911938; PRAGMA user_version = 2;
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
  bundle_id INTEGER NOT NULL REFERENCES bundle(id),
  qualification_sha256 TEXT CHECK(length(qualification_sha256) = 64),
  oom_kills INTEGER) STRICT;

CREATE TABLE folder(
  id INTEGER PRIMARY KEY,
  root BLOB NOT NULL UNIQUE,
  marker TEXT NOT NULL UNIQUE,
  adopted_at TEXT NOT NULL,
  name TEXT NOT NULL DEFAULT 'inbox') STRICT;

CREATE TABLE content(
  sha256 BLOB PRIMARY KEY CHECK(length(sha256) = 32),
  size INTEGER NOT NULL CHECK(size > 0),
  first_seen TEXT NOT NULL,
  format TEXT,
  width INTEGER,
  height INTEGER,
  pixels_sha256 BLOB CHECK(length(pixels_sha256) = 32),
  microns_per_pixel REAL) STRICT, WITHOUT ROWID;
CREATE INDEX content_pixels ON content(pixels_sha256) WHERE pixels_sha256 IS NOT NULL;

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
  filed_at TEXT,
  folder TEXT NOT NULL DEFAULT 'inbox') STRICT;
CREATE UNIQUE INDEX file_open ON file(folder, path, dev, ino, size, mtime_ns) WHERE filed_at IS NULL;
CREATE INDEX file_unfinished ON file(state) WHERE filed_at IS NULL;
CREATE INDEX file_job ON file(job_id);
CREATE INDEX file_sha ON file(sha256, case_id);
CREATE INDEX file_retrying ON file(id) WHERE state = 'retrying';
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
  version TEXT NOT NULL,
  qualification_sha256 TEXT CHECK(length(qualification_sha256) = 64),
  temperature REAL CHECK(temperature > 0)) STRICT;
CREATE INDEX report_created ON report(created_at);
CREATE INDEX report_description ON report(description_key) WHERE description_key IS NOT NULL;
CREATE TABLE thumbnail(
  sha256 BLOB PRIMARY KEY REFERENCES content(sha256),
  jpeg BLOB NOT NULL) STRICT;

CREATE TABLE tile(
  report_id INTEGER NOT NULL REFERENCES report(id),
  level INTEGER NOT NULL CHECK(level >= 0),
  x INTEGER NOT NULL,
  y INTEGER NOT NULL,
  width INTEGER NOT NULL CHECK(width > 0),
  height INTEGER NOT NULL CHECK(height > 0),
  class TEXT,
  probabilities TEXT NOT NULL CHECK(json_valid(probabilities)),
  described INTEGER NOT NULL CHECK(described IN (0, 1)),
  verdict TEXT NOT NULL CHECK(verdict IN ('accepted', 'abstain', 'not_assessed')),
  PRIMARY KEY(report_id, level, y, x)) STRICT, WITHOUT ROWID;

CREATE TABLE event(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at TEXT NOT NULL,
  run_id INTEGER REFERENCES run(id),
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  subject TEXT NOT NULL,
  detail TEXT NOT NULL CHECK(json_valid(detail))) STRICT;

CREATE TABLE tally(
  state TEXT NOT NULL,
  quarter TEXT NOT NULL,
  files INTEGER NOT NULL,
  PRIMARY KEY(state, quarter)) STRICT, WITHOUT ROWID;
CREATE TRIGGER report_fixed BEFORE UPDATE ON report BEGIN SELECT RAISE(ABORT, 'a report never changes'); END;
CREATE TRIGGER report_kept BEFORE DELETE ON report BEGIN SELECT RAISE(ABORT, 'a report is never deleted'); END;

CREATE TRIGGER event_fixed BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'an event never changes'); END;
CREATE TRIGGER event_kept BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'an event is never deleted'); END;

CREATE TRIGGER tally_new AFTER INSERT ON file BEGIN
  INSERT INTO tally(state, quarter, files) VALUES(NEW.state, substr(coalesce(NEW.filed_at, NEW.seen_at), 1, 14) || (substr(coalesce(NEW.filed_at, NEW.seen_at), 15, 2) / 15), 1) ON CONFLICT DO UPDATE SET files = files + 1;
END;
CREATE TRIGGER tally_moved AFTER UPDATE OF state, seen_at, filed_at ON file
  WHEN OLD.state <> NEW.state OR OLD.seen_at <> NEW.seen_at OR OLD.filed_at IS NOT NEW.filed_at BEGIN
  UPDATE tally SET files = files - 1 WHERE state = OLD.state AND quarter = substr(coalesce(OLD.filed_at, OLD.seen_at), 1, 14) || (substr(coalesce(OLD.filed_at, OLD.seen_at), 15, 2) / 15);
  DELETE FROM tally WHERE state = OLD.state AND quarter = substr(coalesce(OLD.filed_at, OLD.seen_at), 1, 14) || (substr(coalesce(OLD.filed_at, OLD.seen_at), 15, 2) / 15) AND files = 0;
  INSERT INTO tally(state, quarter, files) VALUES(NEW.state, substr(coalesce(NEW.filed_at, NEW.seen_at), 1, 14) || (substr(coalesce(NEW.filed_at, NEW.seen_at), 15, 2) / 15), 1) ON CONFLICT DO UPDATE SET files = files + 1;
END;
CREATE TRIGGER tally_gone AFTER DELETE ON file BEGIN
  UPDATE tally SET files = files - 1 WHERE state = OLD.state AND quarter = substr(coalesce(OLD.filed_at, OLD.seen_at), 1, 14) || (substr(coalesce(OLD.filed_at, OLD.seen_at), 15, 2) / 15);
  DELETE FROM tally WHERE state = OLD.state AND quarter = substr(coalesce(OLD.filed_at, OLD.seen_at), 1, 14) || (substr(coalesce(OLD.filed_at, OLD.seen_at), 15, 2) / 15) AND files = 0;
END;

CREATE VIEW reports AS
SELECT r.id AS id, lower(hex(j.sha256)) AS image_sha256, f.path_text AS source, f.case_id AS case_id, min(f.seen_at, j.claimed_at) AS received_at,
  r.created_at AS reported_at, r.class AS class, r.leading_class AS leading_class, r.confidence AS confidence,
  r.probabilities AS probabilities, r.image_only_class AS image_only_class, r.image_only AS image_only, r.alpha_text AS alpha_text,
  r.verdict AS verdict, r.verdict_reasons AS verdict_reasons, r.flags AS flags, r.description AS description,
  r.description_tokens AS description_tokens, r.description_tokens_read AS description_tokens_read,
  r.mean_token_logprob AS mean_token_logprob, r.stop_reason AS stop_reason, b.sha256 AS bundle_sha256, r.provider AS provider,
  r.elapsed AS elapsed_ms, c.width AS width, c.height AS height, c.format AS format, c.size AS size,
  f.folder AS folder, r.qualification_sha256 AS qualification_sha256, r.temperature AS temperature
FROM report r JOIN job j ON j.id = r.job_id JOIN bundle b ON b.id = j.bundle_id JOIN content c ON c.sha256 = j.sha256
  LEFT JOIN file f ON f.id = coalesce((SELECT id FROM file WHERE job_id = j.id AND state IN ('filed', 'reported') ORDER BY id LIMIT 1),
    (SELECT min(id) FROM file WHERE job_id = j.id));

CREATE VIEW files AS
SELECT f.id AS id, f.path_text AS source, f.case_id AS case_id, nullif(lower(hex(f.sha256)), '') AS image_sha256, f.state AS state, f.code AS code,
  f.message AS message, r.id AS report_id, f.seen_at AS seen_at, f.filed_at AS filed_at, f.size AS size,
  f.folder AS folder
FROM file f LEFT JOIN report r ON r.job_id = f.job_id;

CREATE VIEW tiles AS
SELECT report_id, level, x, y, width, height, class, probabilities, described, verdict FROM tile;
INSERT INTO bundle(id, sha256, classes, first_seen) VALUES
  (1, 'abababababababababababababababababababababababababababababababab', '["UD","PD","D"]', '2026-01-01T00:00:00.000Z'),
  (2, 'cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd', '["UD","PD","D"]', '2026-01-02T00:00:00.000Z');
INSERT INTO run(id, started_at, ended_at, end_reason, boot_id, host, version, provider, bundle_id) VALUES
  (1, '2026-01-01T00:00:00.000Z', '2026-01-02T00:00:00.000Z', 'stop', 'boot', 'host', '0.1.0', 'cpu', 1),
  (2, '2026-01-02T00:00:00.000Z', '2026-01-03T00:00:00.000Z', 'stop', 'boot', 'host', '0.1.0', 'cpu', 2);
INSERT INTO content(sha256, size, first_seen) VALUES (zeroblob(32), 10, '2026-01-01T00:00:00.000Z'), (randomblob(32), 11, '2026-01-01T00:00:00.000Z');
INSERT INTO job(id, sha256, bundle_id, state, attempts, run_id, claimed_at, updated_at) VALUES
  (1, zeroblob(32), 1, 'committed', 1, 1, '2026-01-01T00:00:01.000Z', '2026-01-01T00:00:02.000Z'),
  (2, zeroblob(32), 2, 'rejected', 1, 2, '2026-01-02T00:00:01.000Z', '2026-01-02T00:00:02.000Z');
INSERT INTO file(path, path_text, case_id, dev, ino, size, mtime_ns, owner_uid, sha256, job_id, state, code, seen_at, filed_path, filed_at) VALUES
  (CAST('a.png' AS BLOB), 'a.png', '', 1, 1, 10, 1, 0, zeroblob(32), 1, 'filed', NULL, '2026-01-01T00:00:00.000Z', CAST('/done/a.png' AS BLOB), '2026-01-01T00:00:03.000Z'),
  (CAST('b.png' AS BLOB), 'b.png', '', 1, 2, 10, 1, 0, zeroblob(32), 2, 'failed', 'timed_out', '2026-01-02T00:00:00.000Z', CAST('/failed/b.png' AS BLOB), '2026-01-02T00:00:03.000Z'),
  (CAST('c.png' AS BLOB), 'c.png', '', 1, 3, 10, 1, 0, NULL, NULL, 'waiting', 'unreadable', '2026-01-02T00:00:00.000Z', NULL, NULL);
INSERT INTO report(id, job_id, created_at, verdict, verdict_reasons, class, leading_class, confidence, probabilities, logits, flags, provider, elapsed, version, temperature) VALUES
  (7, 1, '2026-01-01T00:00:02.000Z', 'not_assessed', '["not_calibrated"]', 'PD', 'PD', 0.8, '{"UD":0.1,"PD":0.8,"D":0.1}', '[0.0,2.0,0.0]', '[]', 'cpu', '{}', '0.1.0', 1.0);
INSERT INTO event(at, actor, action, subject, detail) VALUES ('2026-01-02T00:00:00.000Z', '0 root', 'retry', 'file 2', '{}');
