"""One file in, its frames and sound out, on one clock."""
