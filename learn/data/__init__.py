"""Clips and their rows, in memory or streamed, and the batches made of them."""
