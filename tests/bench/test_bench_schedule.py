"""What of a workload is sent, and when."""

from __future__ import annotations

from itertools import count

import pytest

from diptych.bench.schedule import Limits, schedule_of
from diptych.domain.errors import SpecError
from diptych.workload.record import Arrival, Workload


def workload(*arrivals: Arrival) -> Workload:
    return Workload("w", lambda: iter(arrivals))


def at(
    t_s: float, tokens: int = 10, output: int = 5, session: str | None = None, delay_s: float | None = None
) -> Arrival:
    return Arrival(t_s=t_s, input_tokens=tokens, output_tokens=output, session_id=session, delay_s=delay_s)


def endless() -> Workload:
    return Workload("endless", lambda: (at(float(i)) for i in count()))


def due(limits: Limits, source: Workload) -> list[float]:
    return [request.t_s for request in schedule_of(source, limits, None, clamp=False).requests]


def test_times_count_from_the_first_request() -> None:
    assert due(Limits(), workload(at(100.0), at(101.5))) == [0.0, 1.5]


def test_limits() -> None:
    assert due(Limits(requests=3), endless()) == [0, 1, 2]
    assert due(Limits(duration_s=2.5), endless()) == [0, 1, 2]
    assert due(Limits(requests=2, duration_s=2.5), endless()) == [0, 1]


def test_a_rate_is_the_mean_over_the_selected_requests() -> None:
    assert due(Limits(rate_rps=2.0), workload(at(0), at(1), at(3))) == [0, 1 / 3, 1]
    assert due(Limits(requests=5, duration_s=1.0, rate_rps=2.0), endless()) == [0, 0.5]


def test_a_rate_of_what_comes_at_once_is_refused() -> None:
    with pytest.raises(SpecError, match="--rate"):
        due(Limits(rate_rps=1.0), workload(at(0), at(0)))


def test_nothing_to_send() -> None:
    with pytest.raises(SpecError, match="no request"):
        due(Limits(), workload())


def test_what_is_too_long_is_left_out_and_counted() -> None:
    schedule = schedule_of(workload(at(0, 95, 5), at(1, 96, 5), at(2, 10, 200)), Limits(), 100, clamp=False)
    assert [request.index for request in schedule.requests] == [0]
    assert (schedule.refused, schedule.clamped) == (2, 0)


def test_or_shortened_and_counted() -> None:
    schedule = schedule_of(workload(at(0, 95, 5), at(1, 96, 5), at(2, 10, 200)), Limits(), 100, clamp=True)
    assert [(one.input_tokens, one.output_tokens) for one in schedule.requests] == [(95, 5), (95, 5), (1, 99)]
    assert (schedule.refused, schedule.clamped) == (0, 2)


def test_all_too_long_says_what_helps() -> None:
    with pytest.raises(SpecError, match="--clamp"):
        schedule_of(workload(at(0, 200)), Limits(), 100, clamp=False)


def test_a_pause_waits_for_the_request_before_it_in_its_session() -> None:
    schedule = schedule_of(
        workload(at(0, session="a"), at(0, session="b"), at(1, session="a", delay_s=2.0), at(2, session="a")),
        Limits(),
        None,
        clamp=False,
    )
    assert [(one.after, one.delay_s) for one in schedule.requests] == [
        (None, 0),
        (None, 0),
        (0, 2.0),
        (None, 0),
    ]
    assert list(schedule.followers) == [0]


def test_a_session_goes_on_behind_a_request_that_is_left_out() -> None:
    arrivals = [at(0, session="a"), at(1, 999, session="a", delay_s=1.0), at(2, session="a", delay_s=3.0)]
    schedule = schedule_of(workload(*arrivals), Limits(), 100, clamp=False)
    assert [(one.index, one.after) for one in schedule.requests] == [(0, None), (2, 0)]
