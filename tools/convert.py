"""`chordate convert`, as a script."""

import sys

from chordate.cli.main import main

sys.exit(main(["convert", *sys.argv[1:]]))
