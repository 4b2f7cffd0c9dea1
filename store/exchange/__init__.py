"""Other people's files: features in and out of a store."""
