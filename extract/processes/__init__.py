"""Functions in child processes that may hang or die without taking the run along."""
