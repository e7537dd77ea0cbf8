-- Version 3: deployments, and what targets were seen to run.

-- One thing made live on one target, or tried to. A row is written before anything on the target
-- changes, and its end after it was proven. The same step and service is one row, however often the
-- step had to be started.
CREATE TABLE deployments (
  id INTEGER PRIMARY KEY,
  step INTEGER NOT NULL REFERENCES steps(id),
  run INTEGER NOT NULL REFERENCES runs(id),
  repo TEXT NOT NULL COLLATE NOCASE,
  target TEXT NOT NULL,
  service TEXT NOT NULL,
  image TEXT,                           -- null: a mirror's snapshot
  digest TEXT NOT NULL,
  before TEXT,                          -- what was live when it was begun first
  commit_sha TEXT NOT NULL,
  number INTEGER,                       -- of the pull request
  who TEXT NOT NULL,
  rollback_of INTEGER REFERENCES deployments(id), -- what it takes back
  state TEXT NOT NULL,                  -- in_progress | success | failure | rolled_back | error
  health TEXT,                          -- what its proof said, or why there is none
  live TEXT,                            -- what is live since its end; null: nothing, or it is not known
  turn INTEGER NOT NULL DEFAULT 1,      -- grows when it is begun again after an end
  started INTEGER NOT NULL,
  finished INTEGER,
  github INTEGER,                       -- GitHub's id of it
  UNIQUE (step, service)
) STRICT;
CREATE INDEX deployments_of_service ON deployments(target, service, id);
CREATE INDEX deployments_of_run ON deployments(run);
CREATE INDEX deployments_open ON deployments(step) WHERE state = 'in_progress';

ALTER TABLE runs ADD COLUMN rollback_of INTEGER REFERENCES deployments(id); -- the deployment it takes back

-- The last look at what a deployment made live. It speaks of that deployment only: after another
-- one it says nothing until somebody looks again.
CREATE TABLE drift (
  target TEXT NOT NULL,
  service TEXT NOT NULL,
  deployment INTEGER NOT NULL REFERENCES deployments(id),
  sight TEXT NOT NULL,                  -- same | differs | gone | untold | unreachable
  found TEXT,                           -- the digest that runs in its place
  why TEXT,                             -- it could not be looked
  since INTEGER NOT NULL,               -- when it was first seen like this
  looked INTEGER NOT NULL,
  PRIMARY KEY (target, service)
) STRICT;

-- A target's page; what ought to be live; an image's version, by its digest.
CREATE INDEX deployments_of_target ON deployments(target, id);
CREATE INDEX deployments_proven ON deployments(target, service, id) WHERE state = 'success';
CREATE INDEX images_by_digest ON images(digest, name, id);
