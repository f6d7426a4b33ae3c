"""Makes `python -m chordate` run the command `chordate`."""

import sys

from chordate.cli.main import main

sys.exit(main())
