"""Places a cache can be: a local folder, one zip file, or a prefix of an object store."""
