"""`client.files`."""

import io
from pathlib import Path
from typing import Any

import pytest

from tests.sdk.work import ROWS, upload


def test_a_file_comes_back_as_it_was(client: Any, tmp_path: Path) -> None:
    path = tmp_path / "tickets.jsonl"
    path.write_bytes(ROWS)
    with path.open("rb") as source:
        made = client.files.create(file=source, purpose="fine-tune")
    assert made.id.startswith("file-")
    assert (made.object, made.filename, made.purpose) == ("file", "tickets.jsonl", "fine-tune")
    assert (made.bytes, made.status, made.num_rows) == (len(ROWS), "processed", 12)
    assert client.files.retrieve(made.id) == made
    assert client.files.wait_for_processing(made.id) == made


@pytest.mark.parametrize("source", ["path", "bytes", "file"])
def test_every_way_to_give_a_file(client: Any, tmp_path: Path, source: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROWS)
    given = {"path": path, "bytes": ROWS, "file": io.BytesIO(ROWS)}[source]
    made = client.files.create(file=given, purpose="fine-tune")
    assert client.files.content(made.id).read() == ROWS


def test_every_way_to_read_a_file(client: Any, tmp_path: Path) -> None:
    file_id = upload(client).id
    content = client.files.content(file_id)
    assert content.text == ROWS.decode()
    assert content.content == ROWS
    client.files.content(file_id).write_to_file(tmp_path / "written")
    assert (tmp_path / "written").read_bytes() == ROWS
    with client.files.with_streaming_response.content(file_id) as reply:
        assert b"".join(reply.iter_bytes(100)) == ROWS
    with client.files.with_streaming_response.content(file_id) as reply:
        reply.stream_to_file(tmp_path / "streamed")
    assert (tmp_path / "streamed").read_bytes() == ROWS


def test_files_are_listed_page_by_page(client: Any) -> None:
    made = [upload(client, name=f"{n}.jsonl").id for n in range(5)]
    other = client.files.create(file=("a.txt", b"text"), purpose="user_data").id
    assert [file.id for file in client.files.list()] == [other, *reversed(made)]
    assert [file.id for file in client.files.list(limit=2, order="asc")] == [*made, other]
    assert [file.id for file in client.files.list(purpose="fine-tune")] == made[::-1]
    page = client.files.list(limit=2)
    assert page.has_next_page()
    assert [file.id for file in page.get_next_page().data] == [made[3], made[2]]


def test_a_deleted_file_is_gone(openai: Any, client: Any) -> None:
    file_id = upload(client).id
    deleted = client.files.delete(file_id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file_id, "file", True)
    assert list(client.files.list()) == []
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file_id)
    with pytest.raises(openai.NotFoundError):
        client.files.content(file_id)


def test_a_bad_file_says_what_is_wrong(client: Any) -> None:
    made = upload(client, ROWS + b'{"messages": []}\n')
    assert client.files.wait_for_processing(made.id).status == "error"
    assert "line 13" in made.status_details
