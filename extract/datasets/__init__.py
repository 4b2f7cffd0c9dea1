"""Manifests of datasets, and datasets rendered on the spot."""
