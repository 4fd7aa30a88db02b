"""How the scripts of examples/ and benchmarks/ end."""

import sys
from collections.abc import Callable

EXIT_BAD_INPUT = 2


def run_main(main: Callable[[], None]) -> None:
    """Calls a script's `main`. What the user can put right ends in one line on stderr and exit code 2."""
    try:
        main()
    except (ValueError, OSError) as error:  # OSError: also a file or a checkpoint that is not there
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        sys.exit(EXIT_BAD_INPUT)
