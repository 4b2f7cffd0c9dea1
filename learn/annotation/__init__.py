"""`learn annotate`: clips labelled by keyboard on a page, the ones worth most first."""
