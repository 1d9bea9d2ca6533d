"""What the service refuses, as one tree; `api.errors` maps each class to a status.

JobsError
├── InvalidRequest      a field's value is not accepted           (param)
├── NotFound            no such thing in this project
├── Conflict            the thing's state does not allow it
├── Contradiction       the request says otherwise than an earlier one
├── Unauthenticated     no valid API key
├── Forbidden           the key's role does not allow it
└── TooLarge            over a limit of the settings
"""


class JobsError(Exception):
    """A refusal whose message is one sentence for the person who asked.

    `param` is the field at fault, as a dotted path; `code` a word for programs.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class InvalidRequest(JobsError):  # noqa: N818 - the names are what is wrong, not "…Error"
    pass


class NotFound(JobsError):  # noqa: N818
    pass


class Conflict(JobsError):  # noqa: N818
    pass


class Contradiction(JobsError):  # noqa: N818
    pass


class Unauthenticated(JobsError):  # noqa: N818
    pass


class Forbidden(JobsError):  # noqa: N818
    pass


class TooLarge(JobsError):  # noqa: N818
    pass
