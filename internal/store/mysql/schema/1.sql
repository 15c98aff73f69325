-- One row per address: the last binding it had, and who wrote it.
CREATE TABLE IF NOT EXISTS hotstage_leases (
  segment      VARCHAR(100)  NOT NULL,
  addr         VARCHAR(45)   NOT NULL,
  client       VARCHAR(520)  NOT NULL COMMENT 'id:<hex> or mac:<aa:bb:..>',
  mac          VARCHAR(60)   NOT NULL,
  hostname     VARCHAR(255)  NOT NULL,
  state        VARCHAR(10)   NOT NULL CHECK (state IN ('bound', 'released', 'expired', 'declined')),
  start        BIGINT        NOT NULL COMMENT 'nanoseconds since 1970, 0: none',
  expires      BIGINT        NOT NULL COMMENT 'likewise',
  boot         VARCHAR(100)  NOT NULL COMMENT 'the boot of the node that expires_boot belongs to',
  expires_boot BIGINT        NOT NULL COMMENT 'nanoseconds of its CLOCK_BOOTTIME',
  node         VARCHAR(100)  NOT NULL COMMENT 'who wrote the row',
  seq          BIGINT        NOT NULL COMMENT 'in the order of changes: a lower one never replaces a higher one',
  PRIMARY KEY (segment, addr),
  KEY hotstage_leases_client (segment, client)
) ENGINE = InnoDB, CHARACTER SET ascii, COLLATE ascii_bin;
