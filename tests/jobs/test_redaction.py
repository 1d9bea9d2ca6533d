import pytest

from jobs.redaction import Redactor

KNOWN = "my.own/secret+1"


@pytest.mark.parametrize(
    "secret",
    [
        KNOWN,
        "hf_" + "aB3" * 10,
        "sk-tunesmith-" + "aB3_-" * 8,
        "sk-proj-" + "x" * 40,
        "ghp_" + "a1" * 18,
        "AKIA" + "ABCD1234" * 2,
        "Bearer abc.def-ghi_123456",
        "bearer   abcdefghijk",
    ],
)
def test_secrets_are_hidden_wherever_they_stand(secret: str) -> None:
    text = Redactor([KNOWN, ""])(f"before {secret!r}, after {secret}\nnext")
    assert secret not in text
    assert text.count("[redacted]") == 2
    assert text.startswith("before ")
    assert text.endswith("\nnext")


def test_credentials_of_urls_are_hidden() -> None:
    redacted = Redactor([])("postgresql://me:pa55w0rd@host:5432/db and https://host/path@2")
    assert redacted == "postgresql://[redacted]@host:5432/db and https://host/path@2"


def test_plain_output_stays_as_it_is() -> None:
    text = "step 12: loss 0.5, lr 1e-4 | hf_model sk-learn ask-me 100%|####| 12/20 [00:01<00:02]"
    assert Redactor([])(text) == text
