"""What stops a command with one line on standard error; `cli.main` prints it and exits with 1."""


class CliError(Exception):
    """A refusal or a failure, told in one sentence that says what to do where that is known."""


class ServerAwayError(CliError):
    """The server cannot be reached, or the connection broke; asking again may help."""
