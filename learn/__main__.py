"""`python -m learn`: the console script `learn`, where its name is taken or not on the path."""

import sys

from cli import learn_main

if __name__ == "__main__":  # processes that it starts import this module too
    sys.argv[0] = "learn"
    learn_main()
