"""The `learn` command line."""
