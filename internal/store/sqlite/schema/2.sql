-- Each change of a row is numbered, so that others can follow the file: see Changes.
CREATE TABLE leases2 (
  segment      TEXT    NOT NULL,
  addr         TEXT    NOT NULL,
  client       TEXT    NOT NULL, -- "id:<hex>" or "mac:<aa:bb:..>"
  mac          TEXT    NOT NULL,
  hostname     TEXT    NOT NULL,
  state        TEXT    NOT NULL CHECK (state IN ('bound', 'released', 'expired', 'declined')),
  start        INTEGER NOT NULL, -- nanoseconds since 1970, 0: none
  expires      INTEGER NOT NULL, -- likewise
  boot         TEXT    NOT NULL, -- the boot that expires_boot belongs to
  expires_boot INTEGER NOT NULL, -- nanoseconds of CLOCK_BOOTTIME
  seq          INTEGER NOT NULL, -- of the row's last change: it only grows
  PRIMARY KEY (segment, addr)
) STRICT, WITHOUT ROWID;

INSERT INTO leases2
SELECT segment, addr, client, mac, hostname, state, start, expires, boot, expires_boot,
  row_number() OVER (ORDER BY expires, segment, addr)
FROM leases;

DROP TABLE leases;
ALTER TABLE leases2 RENAME TO leases;
CREATE INDEX leases_client ON leases (segment, client) WHERE state = 'bound';
CREATE INDEX leases_seq ON leases (seq);

-- How far each follower has come.
CREATE TABLE followers (
  name TEXT    NOT NULL PRIMARY KEY,
  seq  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
