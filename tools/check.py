"""`chordate check`, as a script."""

import sys

from chordate.cli.main import main

sys.exit(main(["check", *sys.argv[1:]]))
