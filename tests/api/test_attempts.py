"""The queue, the estimate and the attempts of a job, as replies show them."""

from jobs.service import claims
from jobs.states import RunOutcome
from tests.api.deployment import Client, Deployment, ok
from tests.jobs.world import offer
from training.events import Progress, Rewound


def test_a_list_says_of_each_job_what_the_job_says(deployment: Deployment, admin: Client) -> None:
    succeeded = deployment.succeeded(admin)
    with deployment.db.writing() as session:
        claims.register(session, offer("list-worker", pool=admin.pool))
    waiting = [admin.submit(priority=priority) for priority in (0, 0, 7)]
    running = admin.submit(priority=9)
    run = deployment.begin(admin, "list-worker")
    listed = {job["id"]: job for job in ok(admin.http.get("/fine_tuning/jobs"))["data"]}
    for job in (succeeded, running, *waiting):
        assert listed[job["id"]] == admin.job(job["id"])
    assert listed[running["id"]]["queue"] is None
    assert listed[succeeded["id"]]["adapter"] is not None
    queues = [listed[job["id"]]["queue"] for job in waiting]
    free = f"next in pool {admin.pool}: waiting for a free slot"
    assert queues[2] == {"position": 0, "pool": admin.pool, "priority": 7, "reason": free}
    assert [queue["reason"] for queue in queues[:2]] == [
        f"{n} ahead in pool {admin.pool}" for n in (1, 2)
    ]
    deployment.finish(run, RunOutcome.FAILED)


def test_a_running_job_says_when_it_will_end(deployment: Deployment, admin: Client) -> None:
    job = admin.submit()
    run = deployment.begin(admin)
    assert admin.job(job["id"])["estimated_finish"] is None
    deployment.say(run, Progress(phase="training", step=1, total_steps=9, eta_seconds=500.0))
    found = admin.job(job["id"])
    assert 450 < found["estimated_finish"] - found["started_at"] < 600
    deployment.finish(run, RunOutcome.INTERRUPTED)
    assert admin.job(job["id"])["estimated_finish"] is None


def test_attempts_say_how_they_ended(deployment: Deployment, admin: Client) -> None:
    job = admin.submit()
    first = deployment.begin(admin)
    deployment.checkpoint(first, 4)
    deployment.finish(first, RunOutcome.INTERRUPTED)
    second = deployment.begin(admin, "second-worker")
    deployment.say(second, Rewound(step=4))
    deployment.finish(second, RunOutcome.FAILED)
    third, earlier = ok(admin.http.get(f"/fine_tuning/jobs/{job['id']}/runs"))["data"]
    assert (earlier["attempt"], earlier["outcome"], earlier["failure"]) == (1, "interrupted", None)
    assert earlier["resumed_from_step"] is None
    assert (third["attempt"], third["outcome"], third["worker"]) == (2, "failed", "second-worker")
    assert third["resumed_from_step"] == 4
    assert third["failure"] == {
        "code": "bad", "message": "it went wrong", "param": None, "remedy": "mend it",
        "fault": "data",
    }  # fmt: skip
    assert third["started_at"] <= third["ended_at"]
