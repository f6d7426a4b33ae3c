"""`chordate browse`, as a script."""

import sys

from chordate.cli.main import main

sys.exit(main(["browse", *sys.argv[1:]]))
