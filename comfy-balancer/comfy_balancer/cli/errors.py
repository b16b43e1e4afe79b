"""What ends a command."""


class CommandError(Exception):
    """The command cannot be done; the message is one line for the user."""
