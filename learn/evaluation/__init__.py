"""Evaluation of stored features and of the runs trained on them."""
