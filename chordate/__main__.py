"""`python -m chordate`, the same as `chordate`."""

import sys

from chordate.cli.main import main

sys.exit(main())
