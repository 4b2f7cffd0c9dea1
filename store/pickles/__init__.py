"""The restricted machine behind `store.safe_pickle`."""
