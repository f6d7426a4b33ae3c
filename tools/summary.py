"""`chordate summary`, as a script."""

import sys

from chordate.cli.main import main

sys.exit(main(["summary", *sys.argv[1:]]))
