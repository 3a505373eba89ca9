"""What a person sees when a command ends badly: one screen, and the right exit status."""

import sys
import traceback
from collections.abc import Callable

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from ssl_cls.errors import RunError, UserError

DONE, FAILED, BAD_INPUT = 0, 1, 2


def guarded(command: Callable[[], int | None]) -> None:
    """Run `command` and exit with its own status; 2 or 1 and one screen for a UserError or RunError.

    Any other failure is ours: 1 and the traceback.
    """
    try:
        sys.exit(command() or DONE)
    except (UserError, RunError) as error:
        text = Text(error.what)
        for label, value in (("where", error.where), ("do", error.fix)):
            if value:
                text.append(f"\n{label + ':':7}", style="bold").append(value)
        Console(stderr=True, highlight=False).print(
            Panel(text, title="cannot go on", title_align="left", border_style="red")
        )
        sys.exit(BAD_INPUT if isinstance(error, UserError) else FAILED)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        traceback.print_exc()
        sys.exit(FAILED)
