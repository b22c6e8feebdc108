"""The recipe of the two adapters that are shipped for `mini`; see README.md."""
