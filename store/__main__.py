"""`python -m store`: the console script `store`, where its name is taken or not on the path."""

import sys

from cli import store_main

if __name__ == "__main__":  # processes that it starts import this module too
    sys.argv[0] = "store"
    store_main()
