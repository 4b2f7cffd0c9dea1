"""What a store and the runs trained on it are worth."""
