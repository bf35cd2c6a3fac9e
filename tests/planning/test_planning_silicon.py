"""T7: measured silicon rows against the constants that ship; the fit itself on a small set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diptych.domain.errors import SpecError
from diptych.performance.closed_loop import Clients, closed_loop
from diptych.performance.efficiencies import (
    choose,
    first_token_s,
    parse_efficiencies,
    relative_error,
    start_up,
    subject,
)
from diptych.performance.roofline import coefficients
from diptych.performance.work import Layout, kv_tokens, room, work
from diptych.planning.closed.checked import Checked
from diptych.planning.fit.__main__ import main
from diptych.planning.fit.least_squares import Data, fit, left_out, predicted
from diptych.planning.fit.load import data_of
from diptych.planning.fit.priors import priors
from diptych.planning.fit.report import errors, summary, table, toml
from diptych.planning.fit.rows import FILE, aggregated, layout_of
from diptych.planning.fit.silicon import shipped, tables
from diptych.planning.fit.vector import predict
from diptych.planning.fit.vector import table as table_of
from diptych.planning.library import load_efficiencies
from support.shared_data import data_file

FITTED = load_efficiencies()


def folder() -> Path:
    return data_file(FILE).parents[1]


def failed(rows: list[Checked]) -> list[Checked]:
    return [row for row in rows if row.passed is False and row.kind == "required"]


def test_the_shipped_constants_meet_the_limits() -> None:
    assert not failed(shipped(folder()))


def test_two_parameter_fits_and_ratios_come_out_as_printed() -> None:
    rows = tables(folder())
    assert len(rows) == 41
    assert not failed(rows)


def test_the_left_out_errors_that_ship_meet_the_limits() -> None:
    """Written by the fit that wrote the constants; `make acceptance` makes them anew."""
    assert FITTED.errors["tpot_left_out"] <= 0.15
    assert FITTED.errors["ttft_left_out_median"] <= 0.35
    assert FITTED.errors["split_tpot_left_out"] <= 0.20
    assert FITTED.rows == 1847
    assert len([name for name in FITTED.groups if not name.endswith("split")]) == 25


def test_arrays_and_single_engines_agree() -> None:
    """The fit and the planner use one set of formulas."""
    rows = aggregated(data_file(FILE))[::97]
    many = predict(FITTED.value, table_of(rows))
    for i, row in enumerate(rows):
        who = subject(row.model, row.chip, row.layout, row.recipe, row.engine)
        one = coefficients(work(row.model, row.chip, row.layout, row.recipe), choose(FITTED.value, who))
        space = room(row.model, row.chip, row.layout, row.recipe)
        share, clumps = start_up(FITTED.value, row.engine, row.rounds)
        first_s = first_token_s(FITTED.value, row.engine)
        held = float(max(1, kv_tokens(space, row.layout.dp)))
        got = closed_loop(one, Clients(row.clients, row.prompt, row.output, share, clumps, first_s, held))
        assert np.asarray(many.ttft_s)[i] == pytest.approx(got.ttft_s, rel=1e-9)
        assert np.asarray(many.tpot_s)[i] == pytest.approx(got.tpot_s, rel=1e-9)
        assert got.tpot_s >= got.step_s


def small() -> Data:
    whole = data_of(data_file(FILE))
    groups = {"llama-3.1-70b|b200_sxm|fp8", "llama-3.1-70b|h200_sxm|fp8", "deepseek-v3|h100_sxm|fp8"}
    return Data(
        *(it.take(np.isin(it.group, list(groups)) & (np.arange(len(it.rows)) % 3 == 0)) for it in whole)
    )


def test_a_fit_is_written_and_read_back() -> None:
    data = small()
    constants = priors(["LlamaForCausalLM"], ["B200-SXM", "H200-SXM"])
    whole = fit(data, constants, steps=4)
    inside, outside = predicted(whole.value(), data), left_out(data, whole, steps=0)
    by_engine = left_out(data, whole, steps=0, by="engine")
    assert errors(data, by_engine).tpot_mean > errors(data, inside).tpot_mean
    text = toml(whole, data, inside, outside, source="a test", date="2026-11-21")
    again = parse_efficiencies(text)
    for prior in constants:
        assert again.value(prior.name) == pytest.approx(whole.value()(prior.name), rel=1e-4)
    assert again.rows == len(data.whole.rows) + len(data.decode.rows)
    assert errors(data, inside).tpot_mean < 0.12
    assert "llama-3.1-70b|h200_sxm|fp8" in table(data, inside, outside)
    assert "TPOT MAPE" in summary("some", errors(data, inside))
    assert again.value("mu@NeverSeen") == 1.0
    with pytest.raises(SpecError, match="no constant 'nonsense'"):
        again.value("nonsense")


def test_every_constant_says_what_it_is() -> None:
    names = {prior.name for prior in priors([], [])}
    assert names <= set(FITTED.constants)
    for constant in FITTED.constants.values():
        assert constant.unit
        assert constant.about
        assert constant.value > 0
    assert FITTED.value("eta_weights") < 1
    assert 0 < FITTED.value("overlap") < 1


def test_efficiencies_that_are_none() -> None:
    with pytest.raises(SpecError, match="not a file of efficiencies"):
        parse_efficiencies("constants = 3")
    with pytest.raises(SpecError, match="not a file of efficiencies"):
        parse_efficiencies("[constants")


def test_doubt_grows_with_what_was_never_measured() -> None:
    row = aggregated(data_file(FILE))[0]
    who = subject(row.model, row.chip, row.layout, row.recipe, "vllm")
    known, _ = relative_error(FITTED, "llama-3.1-70b|b200_sxm|fp8", who)
    near, why = relative_error(FITTED, "mixtral-8x7b|b200_sxm|bf16", who)
    strange, grounds = relative_error(
        FITTED, "mixtral-8x7b|mi300x|bf16", who._replace(engine="own", generation="other", chip="MI300X")
    )
    assert known < near < strange
    assert "of this chip" in why
    assert "'own' is unknown" in grounds
    assert "MI300X is of no measured generation" in grounds


def test_layouts_of_rows() -> None:
    keys = ("tp", "pp", "attn_dp", "moe_tp", "moe_ep")

    def of(*counts: int) -> Layout:
        return layout_of(dict(zip(keys, map(str, counts), strict=True)))

    assert (of(8, 1, 1, 8, 1).tp, of(8, 1, 1, 8, 1).dp) == (8, 1)
    wide = of(1, 1, 32, 1, 32)
    assert (wide.tp, wide.dp, wide.ep, wide.chips) == (1, 32, 32, 32)
    assert of(1, 1, 1, 4, 1).tp == 4


def test_the_command_scores_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--score", str(data_file(FILE))]) == 0
    assert "shipped" in capsys.readouterr().out
    assert main(["--score", str(tmp_path / "none.csv")]) == 2
    assert "cannot read" in capsys.readouterr().err
