"""Published weights: which there are, how they are fetched, converted and loaded."""
