"""From a manifest to committed parts: plan, decode, encode, write."""
