"""`chordate test`, as a script."""

import sys

from chordate.cli.main import main

sys.exit(main(["test", *sys.argv[1:]]))
