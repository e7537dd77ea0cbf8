-- Version 4: what targets were seen to run.

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
