"""`learn report`: directories of results read back, drawn, and put in one page."""
