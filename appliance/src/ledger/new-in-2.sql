-- The tables that version 2 brought, for a new ledger and for one of version 1.
-- Once for each content, beside the rows that every look touches.
CREATE TABLE thumbnail(
  sha256 BLOB PRIMARY KEY REFERENCES content(sha256),
  jpeg BLOB NOT NULL) STRICT;

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
