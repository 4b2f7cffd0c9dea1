"""The storage of a store: a directory or a bucket, behind one interface."""
