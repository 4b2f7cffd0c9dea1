"""Few-shot problems and what answers them; nothing here knows a run or a store."""
