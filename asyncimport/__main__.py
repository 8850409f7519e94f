"""`python -m asyncimport` is `asyncimport`."""

import os
import sys

import asyncimport

if __name__ == "__main__":
    # Python has put the current directory first: somebody else's modules may lie there. (Our own do in a checkout.)
    if not sys.flags.safe_path and sys.path[0] != os.path.dirname(asyncimport.__path__[0]):  # noqa: PTH120 - no imports
        del sys.path[0]

    from asyncimport.cli import main

    main()
