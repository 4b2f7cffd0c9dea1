"""Answers about single clips: labels and neighbours."""
