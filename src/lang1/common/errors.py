"""Errors that a user can mend.

Each carries one line that names the file, row or field, says what was expected and what to do.
The command line prints that line and exits with code 2; ``--debug`` shows the traceback.
"""


class Lang1Error(Exception):
    """Something that the user can mend. ``str(error)`` is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class InputError(Lang1Error):
    """Bad data: a missing column, a wrong type, an impossible time, an empty extract."""


class SettingsError(Lang1Error):
    """An unknown setting, or a value that it cannot take."""


class ArtefactError(Lang1Error):
    """A folder that is missing, half written, of another kind, or changed since it was made."""
