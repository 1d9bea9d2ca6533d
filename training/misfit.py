"""What a configuration asks for that the model or the data does not have. Light."""

from pydantic import BaseModel, ConfigDict


class Misfit(BaseModel):
    """One key that does not fit.

    Attributes:
        message: What is wrong, in one sentence without a full stop.
        remedy: The way out, in another one, if the message does not tell it.
    """

    model_config = ConfigDict(frozen=True)
    param: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message
