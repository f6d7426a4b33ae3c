"""`chordate train`, as a script."""

import sys

from chordate.cli.main import main

sys.exit(main(["train", *sys.argv[1:]]))
