"""Keeping a store well: what is in it, whether it is whole, and what to do if it is not."""
