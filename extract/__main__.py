"""`python -m extract`: the console script `extract`, where its name is taken or not on the path."""

import sys

from cli import extract_main

if __name__ == "__main__":  # processes that it starts import this module too
    sys.argv[0] = "extract"
    extract_main()
