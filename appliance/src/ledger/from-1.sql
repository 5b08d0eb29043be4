-- From version 1 to 2, before views.sql. Columns are appended in the order of schema.sql.
DROP VIEW reports;
DROP VIEW files;
DROP TRIGGER report_fixed;
DROP TRIGGER report_kept;

ALTER TABLE run ADD COLUMN qualification_sha256 TEXT CHECK(length(qualification_sha256) = 64);
ALTER TABLE run ADD COLUMN oom_kills INTEGER;
ALTER TABLE folder ADD COLUMN name TEXT NOT NULL DEFAULT 'inbox';
ALTER TABLE file ADD COLUMN folder TEXT NOT NULL DEFAULT 'inbox';
ALTER TABLE report ADD COLUMN qualification_sha256 TEXT CHECK(length(qualification_sha256) = 64);
ALTER TABLE report ADD COLUMN temperature REAL CHECK(temperature > 0);

DROP INDEX file_open;
CREATE UNIQUE INDEX file_open ON file(folder, path, dev, ino, size, mtime_ns) WHERE filed_at IS NULL;
DROP INDEX file_sha;
CREATE INDEX file_sha ON file(sha256, case_id);
CREATE INDEX file_retrying ON file(id) WHERE state = 'retrying';

CREATE TABLE thumbnail(
  sha256 BLOB PRIMARY KEY REFERENCES content(sha256),
  jpeg BLOB NOT NULL) STRICT;
INSERT INTO thumbnail(sha256, jpeg) SELECT sha256, thumbnail FROM content WHERE thumbnail IS NOT NULL;
ALTER TABLE content DROP COLUMN thumbnail;

-- The tiles of a slide's report, each a region of one level of the slide.
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

-- What was done by whom: a person's retry, a migration, a file set aside.
CREATE TABLE event(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at TEXT NOT NULL,
  run_id INTEGER REFERENCES run(id),
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  subject TEXT NOT NULL,
  detail TEXT NOT NULL CHECK(json_valid(detail))) STRICT;

-- How many files stand in each state, by the quarter of an hour in which they reached it; kept by triggers.
CREATE TABLE tally(
  state TEXT NOT NULL,
  quarter TEXT NOT NULL,
  files INTEGER NOT NULL,
  PRIMARY KEY(state, quarter)) STRICT, WITHOUT ROWID;
INSERT INTO tally(state, quarter, files)
SELECT state, substr(coalesce(filed_at, seen_at), 1, 14) || (substr(coalesce(filed_at, seen_at), 15, 2) / 15), count(*) FROM file GROUP BY 1, 2;
