-- Version 1. Times are milliseconds since the Unix epoch, states the words of the
-- vocabulary, JSON is marked as such. Everything that changes together is changed in
-- one transaction; the indexes cover the open work, which stays small, so that neither
-- start-up nor the workers' looks slow down with the number of past runs.

-- One webhook POST as received. The body is compressed and goes after the retention
-- time; the row with its verdict stays.
CREATE TABLE deliveries (
  id INTEGER PRIMARY KEY,
  guid TEXT NOT NULL UNIQUE,
  source TEXT NOT NULL,                 -- github | git
  event TEXT NOT NULL,
  content_type TEXT NOT NULL,
  repo TEXT,                            -- as the payload names it
  lane TEXT NOT NULL,                   -- decided one after another: the repository's name
  body BLOB,                            -- zstd
  body_size INTEGER NOT NULL,
  received INTEGER NOT NULL,
  state TEXT NOT NULL,                  -- queued | done | ignored | dead
  verdict TEXT,                         -- one line for a person
  attempts INTEGER NOT NULL DEFAULT 0,
  replays INTEGER NOT NULL DEFAULT 0,
  not_before INTEGER NOT NULL,
  run INTEGER REFERENCES runs(id)
) STRICT;
CREATE INDEX deliveries_open ON deliveries(lane, not_before, id) WHERE state = 'queued';
CREATE INDEX deliveries_dead ON deliveries(id) WHERE state = 'dead';
CREATE INDEX deliveries_with_body ON deliveries(received) WHERE body IS NOT NULL;

-- A forge's repository ids, which outlive names.
CREATE TABLE repositories (
  forge_id INTEGER PRIMARY KEY,
  name TEXT NOT NULL UNIQUE COLLATE NOCASE
) STRICT;

CREATE TABLE runs (
  id INTEGER PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,             -- one commit and event start one run
  delivery TEXT NOT NULL,
  forge TEXT NOT NULL,                  -- github | git
  repo TEXT NOT NULL COLLATE NOCASE,
  known_as TEXT NOT NULL COLLATE NOCASE, -- the name its policy was found by
  clone_url TEXT,                       -- as the payload names it
  source_url TEXT,
  event TEXT NOT NULL,
  branch TEXT NOT NULL,
  commit_sha TEXT NOT NULL,
  hints TEXT NOT NULL,                  -- JSON: references that lead to the commit
  merged INTEGER NOT NULL,              -- when, by the sender's clock or else on receipt
  title TEXT NOT NULL,
  author TEXT NOT NULL,
  number INTEGER,                       -- of the pull request
  state TEXT NOT NULL,
  cancel TEXT,                          -- who asked it to stop, and why
  created INTEGER NOT NULL,
  started INTEGER,
  finished INTEGER
) STRICT;
CREATE INDEX runs_of_repo ON runs(repo, id);
CREATE INDEX runs_waiting ON runs(known_as, branch, event) WHERE state = 'queued';
CREATE INDEX runs_merged ON runs(known_as, branch, event, merged);

CREATE TABLE workflows (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs(id),
  name TEXT NOT NULL,
  axis TEXT,
  state TEXT NOT NULL,
  why TEXT
) STRICT;
CREATE INDEX workflows_of_run ON workflows(run);

CREATE TABLE steps (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs(id),
  workflow INTEGER NOT NULL REFERENCES workflows(id),
  name TEXT NOT NULL,
  action TEXT NOT NULL,                 -- JSON: mergeyard_plan::action::Action
  timeout INTEGER NOT NULL,
  retry INTEGER NOT NULL,
  serial TEXT,                          -- steps with the same one run in merge order
  merged INTEGER NOT NULL,
  state TEXT NOT NULL,
  why TEXT,
  ready INTEGER NOT NULL,
  not_before INTEGER NOT NULL,
  attempt INTEGER NOT NULL DEFAULT 0,
  crashes INTEGER NOT NULL DEFAULT 0,
  started INTEGER,
  finished INTEGER,
  outputs TEXT NOT NULL DEFAULT '{}',   -- JSON
  -- The lease. `fence` grows with every claim, so a worker that lost its lease cannot
  -- report; `beat` grows while its holder lives, so that expiry is judged by the
  -- watcher's own monotonic clock and no wall clock is compared between two machines.
  fence INTEGER NOT NULL DEFAULT 0,
  beat INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX steps_of_run ON steps(run);
CREATE INDEX steps_ready ON steps(not_before, id) WHERE ready = 1;
CREATE INDEX steps_serial ON steps(serial, merged, id) WHERE state IN ('queued', 'running');
CREATE INDEX steps_running ON steps(id) WHERE state = 'running';

CREATE TABLE effects (
  id INTEGER PRIMARY KEY,
  key TEXT NOT NULL UNIQUE,
  lane TEXT NOT NULL,
  payload TEXT NOT NULL,                -- JSON: mergeyard_plan::effect::Effect
  state TEXT NOT NULL,                  -- pending | done | skipped | dead
  attempts INTEGER NOT NULL DEFAULT 0,
  not_before INTEGER NOT NULL,
  error TEXT,
  created INTEGER NOT NULL,
  finished INTEGER
) STRICT;
CREATE INDEX effects_open ON effects(lane, id) WHERE state = 'pending';
CREATE INDEX effects_dead ON effects(id) WHERE state = 'dead';

-- What was published, by which step. The registry holds the images themselves.
CREATE TABLE images (
  id INTEGER PRIMARY KEY,
  step INTEGER NOT NULL UNIQUE REFERENCES steps(id),
  run INTEGER NOT NULL REFERENCES runs(id),
  repo TEXT NOT NULL,
  registry TEXT NOT NULL,
  name TEXT NOT NULL,
  version TEXT NOT NULL,
  digest TEXT NOT NULL,
  tree TEXT NOT NULL,
  commit_sha TEXT NOT NULL,
  published INTEGER NOT NULL
) STRICT;
CREATE INDEX images_by_name ON images(name, id);
