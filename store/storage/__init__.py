"""Where the bytes of a store lie: a directory or a bucket, behind one interface."""
