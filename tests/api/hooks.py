"""Endpoints of webhooks, and what is on its way to them."""

from typing import Any

import httpx
from sqlalchemy import select

from jobs.models import WebhookDelivery, WebhookEndpoint
from tests.api.deployment import Client, Deployment, ok

ENDS = ["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]


def subscribe(client: Client, url: str, *types: str) -> dict[str, Any]:
    body = {"name": "hook", "url": url, "event_types": list(types or ENDS)}
    return ok(client.http.post("/webhook_endpoints", json=body))


def cancelled(client: Client) -> str:
    job_id: str = client.submit()["id"]
    ok(client.http.post(f"/fine_tuning/jobs/{job_id}/cancel"))
    return job_id


def deliveries(world: Deployment, client: Client) -> list[WebhookDelivery]:
    query = (
        select(WebhookDelivery)
        .join(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
        .where(WebhookEndpoint.project_id == client.identity.project_id)
    )
    with world.db.reading() as session:
        return list(session.scalars(query.order_by(WebhookDelivery.created_at)))


def settled(world: Deployment, client: Client) -> bool:
    return all(one.next_attempt_at is None for one in deliveries(world, client))


def try_out(client: Client, endpoint: dict[str, Any]) -> httpx.Response:
    path = f"/webhook_endpoints/{endpoint['id']}/test"
    return client.http.post(path, json={"event_type": ENDS[0]})
