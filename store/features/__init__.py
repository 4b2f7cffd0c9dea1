"""One feature as its readers see it: what is committed, looked up, packed or streamed."""
