-- The tables of the ledger, version 3, beside those of new-in-2.sql. They are the appliance's own; other programs read the views (views.sql).
-- New columns stand last, as from-1.sql and from-2.sql append them.

-- A bundle with what `qualify` found about it: what decides every answer.
CREATE TABLE bundle(
  id INTEGER PRIMARY KEY,
  sha256 TEXT NOT NULL CHECK(length(sha256) = 64),
  classes TEXT NOT NULL CHECK(json_valid(classes)),
  first_seen TEXT NOT NULL,
  qualification_sha256 TEXT CHECK(length(qualification_sha256) = 64)) STRICT;
CREATE UNIQUE INDEX bundle_once ON bundle(sha256, coalesce(qualification_sha256, ''));

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
  oom_kills INTEGER,
  trust TEXT CHECK(json_valid(trust))) STRICT;

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
  temperature REAL CHECK(temperature > 0),
  trust TEXT CHECK(json_valid(trust))) STRICT;
CREATE INDEX report_created ON report(created_at);
CREATE INDEX report_description ON report(description_key) WHERE description_key IS NOT NULL;
