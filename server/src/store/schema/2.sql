-- Version 2: pipelines of repositories. What the plan fixed stands beside the state as JSON
-- (mergeyard_plan::rules), because nothing is ever looked up by it.

ALTER TABLE runs ADD COLUMN facts TEXT NOT NULL DEFAULT '{}';       -- JSON: pipeline and commit, for CI_PREV_…
ALTER TABLE runs ADD COLUMN rerun_of INTEGER REFERENCES runs(id);
ALTER TABLE runs ADD COLUMN account INTEGER;                        -- of who caused it, at the forge
ALTER TABLE runs ADD COLUMN fork INTEGER NOT NULL DEFAULT 0;        -- a pull request from another repository
CREATE INDEX runs_last ON runs(known_as, id);

ALTER TABLE workflows ADD COLUMN rules TEXT NOT NULL DEFAULT '{}';  -- JSON: WorkflowRules
ALTER TABLE workflows ADD COLUMN decided INTEGER NOT NULL DEFAULT 0; -- its state is the plan's
ALTER TABLE workflows ADD COLUMN concurrency TEXT;                  -- repository and group, of those that share a limit
CREATE INDEX workflows_open ON workflows(concurrency, id) WHERE state IN ('queued', 'running', 'blocked');
UPDATE workflows SET decided = 1 WHERE NOT EXISTS
  (SELECT 1 FROM steps s WHERE s.run = workflows.run AND s.workflow = workflows.id);

ALTER TABLE steps ADD COLUMN rules TEXT NOT NULL DEFAULT '{}';      -- JSON: StepRules
ALTER TABLE steps ADD COLUMN decided INTEGER NOT NULL DEFAULT 0;    -- its state is the plan's
ALTER TABLE steps ADD COLUMN exit_code INTEGER;                     -- of its program, once it ended
ALTER TABLE steps ADD COLUMN up INTEGER NOT NULL DEFAULT 0;         -- detached, and others may rely on it
-- In version 1 each step followed the one before it, and no rule said so.
UPDATE steps SET rules = json_object('needs', json_array(
    (SELECT count(*) - 1 FROM steps o WHERE o.run = steps.run AND o.workflow = steps.workflow AND o.id < steps.id)))
  WHERE EXISTS (SELECT 1 FROM steps o WHERE o.run = steps.run AND o.workflow = steps.workflow AND o.id < steps.id);

-- A question to a person, about one workflow or step of one run, and so about one commit.
CREATE TABLE approvals (
  id INTEGER PRIMARY KEY,
  run INTEGER NOT NULL REFERENCES runs(id),
  workflow INTEGER REFERENCES workflows(id), -- null: the run as a whole, which is how forks wait
  step INTEGER REFERENCES steps(id),         -- null: the workflow as a whole
  gate TEXT NOT NULL,
  asked INTEGER NOT NULL,
  answer TEXT,                               -- approved | rejected
  answered INTEGER,
  who TEXT                                   -- the token's name, or the command line's user
) STRICT;
CREATE INDEX approvals_open ON approvals(run) WHERE answer IS NULL;
CREATE INDEX approvals_of_run ON approvals(run);

-- Accounts of a forge whose pull requests from forks no longer wait, by id and never by name.
CREATE TABLE trusted_accounts (
  known_as TEXT NOT NULL COLLATE NOCASE,
  account INTEGER NOT NULL,
  who TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (known_as, account)
) STRICT;

-- Tokens of the API. Only a hash is kept; the token is shown once. A revoked one stays, so that the
-- log can say whose it was, and gives its name free.
CREATE TABLE tokens (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  hash BLOB NOT NULL UNIQUE,                 -- SHA-256 of 256 random bits
  role TEXT NOT NULL,                        -- read | approve | admin
  created INTEGER NOT NULL,
  expires INTEGER,
  used INTEGER,
  revoked INTEGER
) STRICT;
CREATE UNIQUE INDEX tokens_in_force ON tokens(name) WHERE revoked IS NULL;

-- Secrets of pipelines, sealed with the master key; scope, name and rule are authenticated with
-- the value, so that a row moved to another name, or opened to more events, does not open.
CREATE TABLE secrets (
  id INTEGER PRIMARY KEY,
  scope TEXT NOT NULL COLLATE NOCASE,        -- owner/name | owner | '' for everybody
  name TEXT NOT NULL,
  sealed BLOB NOT NULL,                      -- key id, nonce, ciphertext
  events TEXT NOT NULL,                      -- JSON: empty is every event but pull requests
  images TEXT NOT NULL,                      -- JSON: empty is every image
  updated INTEGER NOT NULL,
  UNIQUE (scope, name)
) STRICT;

-- When each schedule of the configuration is due next.
CREATE TABLE schedules (
  known_as TEXT NOT NULL COLLATE NOCASE,
  name TEXT NOT NULL,
  expression TEXT NOT NULL,
  due INTEGER NOT NULL,
  PRIMARY KEY (known_as, name)
) STRICT;
