"""`chordate convert-config`, as a script."""

import sys

from chordate.cli.main import main

sys.exit(main(["convert-config", *sys.argv[1:]]))
