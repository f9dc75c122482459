"""The one exception of the command line."""


class CommandError(Exception):
    """Something that the user can do something about; its text is the whole output."""
