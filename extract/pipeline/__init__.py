"""Turns a manifest into committed parts: plan, decode, encode, write."""
