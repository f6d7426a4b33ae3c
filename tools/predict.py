"""`chordate predict`, as a script."""

import sys

from chordate.cli.main import main

sys.exit(main(["predict", *sys.argv[1:]]))
