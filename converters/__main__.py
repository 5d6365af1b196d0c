"""`python -m converters` is the command mdjax-convert."""

from converters.cli import main

if __name__ == "__main__":
    main()
