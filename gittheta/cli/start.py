"""What comes before anything else is imported. Needs only modules that Python has loaded by itself."""

import os
import sys


def forget_current_folder() -> None:
    """Import nothing from the folder that a command is called in: it may be anybody's repository.

    An empty or relative part of PYTHONPATH means that folder, and comes before Python's own modules. Git calls gittheta
    with such variables switched off; this is for what a user types.
    """
    here = os.getcwd()
    parts = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    hostile = {here, *(os.path.join(here, part) for part in parts if not os.path.isabs(part))}
    hostile = {os.path.realpath(path) for path in hostile}
    own = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    library = os.path.dirname(os.__file__)
    first = sys.path.index(library) if library in sys.path else 0
    kept = [path for path in sys.path[:first] if path and os.path.realpath(path) not in hostile]
    if own in sys.path[:first] and own not in kept and own not in sys.path[first:]:
        sys.path.append(own)  # whoever works on gittheta itself is in such a folder
    sys.path[:first] = kept
