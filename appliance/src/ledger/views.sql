-- What other programs read, and the triggers that hold what the views promise.
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
  f.folder AS folder, r.qualification_sha256 AS qualification_sha256, r.temperature AS temperature,
  r.trust AS trust
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
