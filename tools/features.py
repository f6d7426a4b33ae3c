"""`chordate features`, as a script."""

import sys

from chordate.cli.main import main

sys.exit(main(["features", *sys.argv[1:]]))
