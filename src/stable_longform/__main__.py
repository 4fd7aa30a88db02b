"""`python -m stable_longform` is the command `stable-longform`."""

import sys

from stable_longform.cli.main import main

sys.exit(main())
