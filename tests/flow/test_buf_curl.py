"""The contract by buf's own client, which brings a gRPC of its own and asks for the schema."""

from __future__ import annotations

import pytest

from tests.support.json_clients import BufCurl
from tests.support.mesh import RunningMesh, fresh
from tests.support.scenario import (
    CREATE,
    needs_watch,
    pays_once_and_refuses_another_amount,
    three_orders,
    watches_to_the_end,
)

pytestmark = pytest.mark.usefixtures("balanced_books")


@pytest.fixture
def client(mesh: RunningMesh) -> BufCurl:
    return BufCurl(mesh.supervisor.target("payment"))


def test_it_pays_once_and_refuses_another_amount(mesh: RunningMesh, client: BufCurl) -> None:
    pays_once_and_refuses_another_amount(mesh, client)


@needs_watch
def test_it_watches_to_the_end(mesh: RunningMesh, client: BufCurl) -> None:
    watches_to_the_end(mesh, client)


def test_a_bad_field_is_refused_and_nothing_is_stored(mesh: RunningMesh, client: BufCurl) -> None:
    request = three_orders(fresh("request"))
    request["orders"][2]["amount"]["amount_minor"] = -5

    refusal = client.refused(CREATE, request)

    assert (refusal.code, refusal.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED")
    stored = "SELECT count(*) FROM payment WHERE request_id = %s"
    assert mesh.count("payment", stored, request["request_id"]) == 0
