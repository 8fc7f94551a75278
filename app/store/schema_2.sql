-- A session of a killed window that this window offers to continue: if this window is killed before
-- anybody answers, the next one offers it again.
ALTER TABLE window ADD COLUMN offered TEXT;
