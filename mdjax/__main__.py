"""`python -m mdjax` is the command line."""

from mdjax.cli import main

if __name__ == "__main__":
    main()
