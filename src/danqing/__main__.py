"""`python -m danqing` is the command `danqing`."""

from danqing.cli import main

if __name__ == "__main__":
    main()
