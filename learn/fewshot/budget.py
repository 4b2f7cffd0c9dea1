"""What scoring may take."""

MEMORY = 1 << 30  # bytes beside the clips' rows and vectors, by default
