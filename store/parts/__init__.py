"""One committed part: how its arrays lie, how it is written, committed and read."""
