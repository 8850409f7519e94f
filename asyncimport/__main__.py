"""`python -m asyncimport` is `asyncimport`."""

from asyncimport.cli import main

if __name__ == "__main__":
    main()
