"""Files that a worker has to check, and the jobs that wait for it."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from jobs.errors import InvalidRequest
from jobs.models import Event, File, Job, JobFile, Run
from jobs.service import claims, files, specs
from jobs.service.claims import Claim
from jobs.service.endings import Ending
from jobs.service.file_checks import CheckAssignment
from jobs.service.limits import fail_overdue
from jobs.service.records import record_log
from jobs.states import JobStatus, RunKind, RunOutcome
from tests.jobs.world import CHAT_ROW, FACTS, FAILURE, World, fence_of, offer
from training.file_check import FileReport, RowError

S, O = JobStatus, RunOutcome  # noqa: E741 - as in the tables of other tests
GOOD = FileReport("prompt_completion", 40, 0, (), {}, {}, "csv")
BAD = FileReport(
    "messages",
    5,
    2,
    (RowError(7, None, "a", "b."), RowError(9, None, "c", "d.")),
    {},
    {},
    "parquet",
)


def claim(world: World, worker: str = "w1") -> Claim:
    claimed = world.claim(offer(worker))
    assert claimed is not None
    return claimed


def check(world: World, file: File, report: FileReport = GOOD) -> object:
    claimed = claim(world, "checker")
    assert claimed.file_id == file.id
    return world.finish(claimed, Ending(O.SUCCEEDED, report=report))


def file_now(world: World, file: File) -> File:
    with world.db.reading() as session:
        return session.get_one(File, file.id)


@pytest.fixture
def ready(local_world: World) -> World:
    """A deployment with a model, on SQLite."""
    local_world.model()
    return local_world


class TestTheCheck:
    def test_a_file_waits_for_a_run_of_its_own(self, world: World):
        file = world.unchecked()
        assert (file.status, file.container, file.format) == ("uploaded", "csv", None)
        claimed = claim(world)
        assert (claimed.kind, claimed.slot, claimed.gpu_indices) == (RunKind.CHECK, "light", ())
        assert (claimed.file_id, claimed.job_id, claimed.attempt) == (file.id, None, 1)
        with world.db.reading() as session:
            assert claims.assignment(session, claimed) == CheckAssignment(
                file.id, file.artifact_key, file.sha256, "csv"
            )
        assert world.claim(offer("w2")) is None
        assert world.finish(claimed, Ending(O.SUCCEEDED, report=GOOD)) is None
        kept = file_now(world, file)
        assert (kept.status, kept.status_details) == ("processed", None)
        assert (kept.format, kept.num_rows, kept.container) == ("prompt_completion", 40, "csv")
        assert world.claim(offer()) is None

    def test_bad_rows_are_told(self, world: World):
        file = world.unchecked("parquet")
        check(world, file, BAD)
        kept = file_now(world, file)
        assert (kept.status, kept.status_details) == ("error", "row 7: a; row 9: c")
        assert kept.report is not None
        world.model()
        with pytest.raises(InvalidRequest, match="has errors: row 7: a; row 9: c"):
            world.submit(training_file=file.id)

    def test_one_that_cannot_be_read_is_in_error(self, local_world: World):
        file = local_world.unchecked()
        local_world.finish(claim(local_world), O.FAILED)
        kept = file_now(local_world, file)
        assert (kept.status, kept.status_details) == ("error", FAILURE.message)
        assert kept.report is None

    @pytest.mark.parametrize("outcome", [O.CRASHED, O.LOST])
    def test_a_run_that_is_lost_is_done_again_a_few_times(self, outcome, world: World):
        file = world.unchecked()
        for attempt in (1, 2):
            claimed = claim(world)
            assert claimed.attempt == attempt
            if outcome == O.LOST:
                assert world.lose(claimed)
            else:
                assert world.finish(claimed, outcome) == S.QUEUED
            assert file_now(world, file).status == "uploaded"
        claimed = claim(world)
        assert world.lose(claimed) if outcome == O.LOST else not world.finish(claimed, outcome)
        assert file_now(world, file).status == "error"
        assert world.claim(offer()) is None

    def test_a_worker_that_drains_costs_nothing(self, local_world: World):
        file = local_world.unchecked()
        for _ in range(5):
            assert local_world.finish(claim(local_world), O.INTERRUPTED) == S.QUEUED
        check(local_world, file)
        assert file_now(local_world, file).status == "processed"

    def test_it_takes_the_light_slot_beside_a_training(self, ready: World):
        ready.submit(training_file=ready.file().id)
        training = claim(ready)
        file = ready.unchecked()
        assert (claim(ready).file_id, training.slot) == (file.id, "cpu")
        ready.unchecked()
        assert ready.claim(offer()) is None

    def test_the_oldest_goes_first(self, local_world: World):
        made = [local_world.unchecked() for _ in range(3)]
        local_world.change(File, made[2].id, created_at=1.0)
        claimed = [claim(local_world, f"w{i}").file_id for i in range(3)]
        assert claimed == [made[2].id, made[0].id, made[1].id]

    def test_a_deleted_file_is_not_checked_unless_a_job_waits(self, ready: World):
        one, needed = ready.unchecked(), ready.unchecked()
        job = ready.submit(training_file=needed.id)
        for file in (one, needed):
            with ready.db.writing() as session:
                files.delete(session, ready.me, file.id)
        check(ready, needed)
        assert ready.job(job.id).status == S.QUEUED
        assert ready.claim(offer("w2", pool="other")) is None

    def test_what_the_process_says_is_kept(self, local_world: World):
        file = local_world.unchecked()
        claimed = claim(local_world)
        with local_world.db.writing() as session:
            record_log(session, fence_of(claimed), "words\n", log_bytes=6)
        said = [event.message for event in local_world.all(Event) if event.stream_id == file.id]
        assert said == ["words\n"]


class TestWaitingJobs:
    def test_a_job_waits_and_is_completed_by_what_was_found(self, world: World):
        world.model()
        file = world.unchecked()
        job = world.submit(training_file=file.id)
        assert job.status == S.VALIDATING_FILES
        assert job.hyperparameters["n_epochs"] == "auto"
        assert world.job(job.id).training["optimization"]["num_train_epochs"] is None
        claimed = claim(world)
        assert claimed.file_id == file.id
        assert world.claim(offer("w2")) is None
        assert world.finish(claimed, Ending(O.SUCCEEDED, report=GOOD)) == S.QUEUED
        queued = world.job(job.id)
        assert queued.status == S.QUEUED
        assert queued.hyperparameters["n_epochs"] == 3
        assert queued.training["data"]["max_length"] == FACTS.context_length
        (pin,) = world.all(JobFile)
        assert (pin.format, pin.sha256) == ("prompt_completion", file.sha256)
        claimed = claim(world)
        assert claimed.job_id == job.id
        with world.db.reading() as session:
            (staged,) = claims.assignment(session, claimed).files
        assert (staged.container, staged.format) == ("csv", "prompt_completion")

    def test_its_events_tell(self, ready: World):
        file = ready.unchecked()
        job = ready.submit(training_file=file.id)
        check(ready, file)
        told = [e.data["status"] for e in ready.all(Event) if e.type == "status" and e.data]
        assert told == [S.VALIDATING_FILES, S.QUEUED]
        with ready.db.reading() as session:
            assert specs.spec(session, ready.me, job.id)["training_file"] == file.id

    def test_it_becomes_what_it_would_have_been(self, ready: World):
        body: dict[str, Any] = {
            "hyperparameters": {"batch_size": 4},
            "training": {"adapter": {"r": 4}, "data": {"format": "prompt_completion"}},
            "seed": 1,
        }
        file = ready.unchecked()
        waiting = ready.submit(training_file=file.id, **body)
        check(ready, file)
        at_once = ready.submit(training_file=file.id, **body)
        assert at_once.status == S.QUEUED
        assert ready.job(waiting.id).training == at_once.training
        assert ready.job(waiting.id).hyperparameters == at_once.hyperparameters

    def test_it_waits_for_all_of_its_files(self, ready: World):
        first, second, checked = ready.unchecked(), ready.unchecked(), ready.file([CHAT_ROW])
        entries = [{"file": first.id}, {"file": checked.id}, {"file": first.id, "weight": 2}]
        job = ready.submit(training_files=entries, validation_file=second.id)
        check(ready, first)
        assert ready.job(job.id).status == S.VALIDATING_FILES
        check(ready, second)
        assert ready.job(job.id).status == S.QUEUED
        formats = [pin.format for pin in ready.all(JobFile)]
        assert sorted(formats) == ["messages", *["prompt_completion"] * 3]

    @pytest.mark.parametrize("role", ["training_file", "validation_file"])
    def test_a_bad_file_fails_it(self, role, ready: World):
        file = ready.unchecked("parquet")
        job = ready.submit(**{"training_file": ready.file().id, role: file.id})
        check(ready, file, BAD)
        failed = ready.job(job.id)
        assert (failed.status, failed.finished_at is None) == (S.FAILED, False)
        assert failed.error is not None
        assert (failed.error["code"], failed.error["param"]) == ("invalid_training_file", role)
        assert "row 7: a" in failed.error["message"]

    def test_a_file_that_is_given_up_fails_it(self, ready: World):
        job = ready.submit(training_file=ready.unchecked().id)
        ready.finish(claim(ready), O.FAILED)
        error = ready.job(job.id).error
        assert error is not None
        assert FAILURE.message in error["message"]

    @pytest.mark.parametrize(
        ("training", "report", "param"),
        [
            ({"data": {"format": "messages"}}, GOOD, "training.data.format"),
            ({"data": {"default_system": "Be kind."}}, GOOD, "training.data.default_system"),
        ],
    )
    def test_what_does_not_fit_its_rows_fails_it(self, training, report, param, ready: World):
        file = ready.unchecked()
        job = ready.submit(training_file=file.id, training=training)
        check(ready, file, report)
        error = ready.job(job.id).error
        assert error is not None
        assert (error["code"], error["param"], error["fault"]) == ("invalid_spec", param, "spec")

    def test_what_does_not_fit_the_model_is_refused_at_once(self, ready: World):
        with pytest.raises(InvalidRequest, match="no module 'nope'"):
            ready.submit(
                training_file=ready.unchecked().id,
                training={"adapter": {"target_modules": ["nope"]}},
            )

    def test_one_that_was_cancelled_stays_so(self, ready: World):
        file = ready.unchecked()
        job = ready.submit(training_file=file.id)
        ready.cancel(job)
        check(ready, file)
        assert ready.job(job.id).status == S.CANCELLED

    def test_one_that_is_paused_is_completed_and_stays_paused(self, ready: World):
        file = ready.unchecked()
        job = ready.submit(training_file=file.id)
        assert ready.ask("pause", job).status == S.PAUSED
        assert ready.ask("resume", job).status == S.VALIDATING_FILES
        ready.ask("pause", job)
        check(ready, file)
        assert ready.job(job.id).status == S.PAUSED
        assert ready.job(job.id).hyperparameters["n_epochs"] == 3
        assert ready.ask("resume", job).status == S.QUEUED

    def test_one_that_is_paused_fails_with_its_file(self, ready: World):
        file = ready.unchecked()
        job = ready.submit(training_file=file.id)
        ready.ask("pause", job)
        check(ready, file, BAD)
        assert ready.job(job.id).status == S.FAILED

    def test_its_patience_counts(self, ready: World):
        job = ready.submit(training_file=ready.unchecked().id, limits={"max_pending_seconds": 10})
        ready.change(Job, job.id, queued_at=1.0)
        with ready.db.writing() as session:
            assert fail_overdue(session) == [job.id]

    def test_its_body_can_be_posted_again_meanwhile(self, ready: World):
        file = ready.unchecked()
        job = ready.submit(training_file=file.id)
        with ready.db.reading() as session:
            body = specs.changed_spec(session, ready.me, job.id, {"seed": 3})
        again = ready.submit(**body)
        check(ready, file)
        assert ready.job(again.id).training == ready.job(job.id).training


def test_no_job_is_left_waiting_when_its_file_is_checked_meanwhile(world: World):
    """A post and the end of the check, at the same moment, again and again."""
    world.model()
    for _ in range(6):
        file = world.unchecked()
        claimed = claim(world, "checker")
        start = threading.Barrier(4)

        def together(
            step: Callable[[], object], start: threading.Barrier = start
        ) -> Callable[[], None]:
            def run() -> None:
                start.wait()
                step()

            return run

        steps = [
            lambda claimed=claimed: world.finish(claimed, Ending(O.SUCCEEDED, report=GOOD)),
            *[lambda file=file: world.submit(training_file=file.id)] * 3,
        ]
        threads = [threading.Thread(target=together(step)) for step in steps]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    jobs = world.all(Job)
    assert (len(jobs), {job.status for job in jobs}) == (18, {S.QUEUED})
    assert {job.hyperparameters["n_epochs"] for job in jobs} == {3}
    assert {pin.format for pin in world.all(JobFile)} == {"prompt_completion"}
    assert all(run.ended_at for run in world.all(Run))
