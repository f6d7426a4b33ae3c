"""`chordate list`, as a script."""

import sys

from chordate.cli.main import main

sys.exit(main(["list", *sys.argv[1:]]))
