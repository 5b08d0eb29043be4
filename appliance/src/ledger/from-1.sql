-- From version 1 to 2, after new-in-2.sql and before views.sql. Columns are appended in the order of schema.sql.
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

INSERT INTO thumbnail(sha256, jpeg) SELECT sha256, thumbnail FROM content WHERE thumbnail IS NOT NULL;
ALTER TABLE content DROP COLUMN thumbnail;

INSERT INTO tally(state, quarter, files)
SELECT state, substr(coalesce(filed_at, seen_at), 1, 14) || (substr(coalesce(filed_at, seen_at), 15, 2) / 15), count(*) FROM file GROUP BY 1, 2;
