-- One row per address: the last binding it had.
CREATE TABLE leases (
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
  PRIMARY KEY (segment, addr)
) STRICT, WITHOUT ROWID;

CREATE INDEX leases_client ON leases (segment, client) WHERE state = 'bound';
