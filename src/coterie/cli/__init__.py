"""The command line: one file per command, and here what holds for all: errors and exit codes.

====  =================================================================
0     done
1     a fault of the program, or training that diverged
2     a mistake that the user can mend; the message says how
130   interrupted, by SIGINT or SIGTERM
====  =================================================================
"""

import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import CycloptsError, UnusedCliTokensError

from coterie.cli.app import app
from coterie.errors import CoterieError
from coterie.training.interrupt import stoppable

TRACEBACK = "COTERIE_TRACEBACK"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; nothing but the code tells how it ended."""
    try:
        with stoppable():
            code = app(sys.argv[1:] if argv is None else list(argv))
            sys.stdout.flush()
    except UnusedCliTokensError as error:
        return _fail(f"unexpected argument {' '.join(error.unused_tokens or ())}", 2)
    except CycloptsError as error:
        return _fail(str(error), 2)
    except CoterieError as error:
        _show_traceback()
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has gone, as in `coterie … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        _show_traceback()
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        what = str(cause).strip().splitlines() or ["no message"]
        return _fail(
            f"{type(cause).__name__}: {what[0]} (this is a bug in coterie; {TRACEBACK}=1 shows "
            "where it happened, please report that)",
            1,
        )
    return code if isinstance(code, int) else 0


def _fail(message: str, code: int) -> int:
    print(f"coterie: {message}", file=sys.stderr)
    return code


def _show_traceback() -> None:
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
