"""Format of a cache on disk: arrays, block table, commit marker, and what one commit changes."""
