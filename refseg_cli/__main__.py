"""`python -m refseg_cli`, the same as `refseg`."""

import sys

from refseg_cli.app import main

if __name__ == "__main__":
    sys.exit(main())
