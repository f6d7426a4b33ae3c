"""`chordate export`, as a script."""

import sys

from chordate.cli.main import main

sys.exit(main(["export", *sys.argv[1:]]))
