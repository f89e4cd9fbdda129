"""`python -m imgbuild` is `imgbuild`."""

import sys

from imgbuild.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
