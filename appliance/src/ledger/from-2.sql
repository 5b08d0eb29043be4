-- From version 2 to 3, before views.sql: a bundle is what it is together with its qualification, and who signed both is known of runs and reports.
-- Columns are appended in the order of schema.sql.
DROP VIEW IF EXISTS reports;
DROP VIEW IF EXISTS files;
DROP VIEW IF EXISTS tiles;
DROP TRIGGER IF EXISTS report_fixed;
DROP TRIGGER IF EXISTS report_kept;
DROP TRIGGER IF EXISTS event_fixed;
DROP TRIGGER IF EXISTS event_kept;
DROP TRIGGER IF EXISTS tally_new;
DROP TRIGGER IF EXISTS tally_moved;
DROP TRIGGER IF EXISTS tally_gone;

ALTER TABLE run ADD COLUMN trust TEXT CHECK(json_valid(trust));
ALTER TABLE report ADD COLUMN trust TEXT CHECK(json_valid(trust));

-- A column that is unique by itself cannot be made otherwise: the table is made anew.
CREATE TABLE bundle_of_3(
  id INTEGER PRIMARY KEY,
  sha256 TEXT NOT NULL CHECK(length(sha256) = 64),
  classes TEXT NOT NULL CHECK(json_valid(classes)),
  first_seen TEXT NOT NULL,
  qualification_sha256 TEXT CHECK(length(qualification_sha256) = 64)) STRICT;
INSERT INTO bundle_of_3(id, sha256, classes, first_seen) SELECT id, sha256, classes, first_seen FROM bundle;
DROP TABLE bundle;
ALTER TABLE bundle_of_3 RENAME TO bundle;
CREATE UNIQUE INDEX bundle_once ON bundle(sha256, coalesce(qualification_sha256, ''));
