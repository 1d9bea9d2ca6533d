"""One tiny model for all tests of training."""

from pathlib import Path

import pytest

from tests.tiny_model import make_tiny_model
from tests.training.adapting import Folders


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_model_without_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("plain") / "model", chat_template=False)


@pytest.fixture(scope="session")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tiny_model, tmp_path_factory.mktemp("models"))
