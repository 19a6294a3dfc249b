"""Where replicas listen and how many there may be, as it is typed."""

from __future__ import annotations

import itertools

import pytest

from paymeshctl.arguments import parse_replicas
from paymeshctl.exits import CommandError, Exit
from paymeshctl.ports import (
    MAX_PORT_BASE,
    MAX_REPLICAS,
    PORT_OFFSETS,
    POSTGRES_PORT_OFFSET,
    instance_name,
    instance_parts,
    listed_target,
    max_port_base,
    port_offset,
)

METRICS = 10
"""A replica's metrics are so much above its own port."""


def test_no_two_of_a_mesh_share_a_port() -> None:
    serving = [port_offset(*one) for one in itertools.product(PORT_OFFSETS, range(MAX_REPLICAS))]
    taken = [*serving, *(offset + METRICS for offset in serving), POSTGRES_PORT_OFFSET]
    assert len(set(taken)) == len(taken)


def test_the_first_replica_has_the_documented_port() -> None:
    assert {service: port_offset(service) for service in PORT_OFFSETS} == PORT_OFFSETS
    assert port_offset("payment", 1) == 21
    assert port_offset("psp_stub", 7) == 145


def test_a_name_tells_service_and_number() -> None:
    assert instance_name("payment", 0) == "payment"
    assert instance_name("psp_stub", 2) == "psp_stub-2"
    for service, number in itertools.product(PORT_OFFSETS, range(MAX_REPLICAS)):
        assert instance_parts(instance_name(service, number)) == (service, number)


def test_all_ports_of_the_highest_base_exist() -> None:
    assert max_port_base({}) == MAX_PORT_BASE
    assert max_port_base({"payment": 1}) == MAX_PORT_BASE
    assert max_port_base({"payment": 0}) == MAX_PORT_BASE
    assert max_port_base({"payment": 2, "wallet": 3}) + port_offset("wallet", 2) + 10 == 65535


@pytest.mark.parametrize(
    ("host", "ports", "target"),
    [
        ("shop.internal", [1], "shop.internal:1"),
        ("127.0.0.1", [1], "127.0.0.1:1"),
        ("127.0.0.1", [1, 2], "ipv4:127.0.0.1:1,127.0.0.1:2"),
        ("[::1]", [1, 2], "ipv6:[::1]:1,[::1]:2"),
    ],
)
def test_callers_are_told_of_all_ports(host: str, ports: list[int], target: str) -> None:
    assert listed_target(host, ports) == target


def test_ports_of_a_name_cant_be_listed() -> None:
    with pytest.raises(ValueError, match=r"shop\.internal"):
        listed_target("shop.internal", [1, 2])


def test_replicas_as_they_are_typed() -> None:
    assert parse_replicas([]) == {}
    assert parse_replicas(["payment=2, executor=3", "wallet=1"]) == {
        "payment": 2,
        "executor": 3,
        "wallet": 1,
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("payments=2", "no such service"),
        ("", "no such service"),
        ("=2", "no such service"),
        ("payment-1=2", "no such service"),
        ("payment=2,,wallet=2", "no such service"),
        ("payment", "1 to 8"),
        ("payment=", "1 to 8"),
        ("payment=0", "1 to 8"),
        ("payment=9", "1 to 8"),
        ("payment=two", "1 to 8"),
        ("payment=-1", "1 to 8"),
        ("payment=1.5", "1 to 8"),
        ("payment=\u00b2", "1 to 8"),
        ("payment=2,payment=3", "names payment twice"),
    ],
)
def test_replicas_that_are_none_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint) as refused:
        parse_replicas([text])
    assert refused.value.exit_code is Exit.BAD_USAGE
