"""Wh, joules and prices against integrals that are known; heat, room and what validity makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import llm_stresstest as st
from extensions import hardware

PRICES = SimpleNamespace(price_per_kwh=0.4, price_per_hour=2.0)
FREE = SimpleNamespace(price_per_kwh=None, price_per_hour=None)


def work(
    start_ms: float, end_ms: float, tokens: int | None, answers: int, correct: int | None
) -> dict[str, Any]:
    """Return what energy takes of the aggregate of a stage."""
    quality = {"graded": 0 if correct is None else answers, "correct": correct or 0}
    window = [start_ms, end_ms]
    return {"window_ms": window, "token_sum": tokens, "ok": answers, "quality": quality}


def cost(
    table: dict[str, Any] | None, *parts: dict[str, Any], host: str | None = "client"
) -> dict[str, Any]:
    """Return the energy of the whole, with that of the stages beside it."""
    found = hardware.energy(table, parts, PRICES, host)
    assert found is not None
    return {**found["whole"], "stages": found["stages"]}


def samples(
    watts: Callable[[float], float | None],
    seconds: float = 60,
    sample_s: float = 1.0,
    idle_s: float = 3.0,
    **more: Callable[[float], Any],
) -> dict[str, Any]:
    """Return what the sampler would have seen of a curve, from idle_s before the load on."""
    rows = []
    for place in range(int((seconds + idle_s) / sample_s) + 1):
        at_s = place * sample_s - idle_s
        values = {"wall_w": watts(at_s), **{name: value(at_s) for name, value in more.items()}}
        known = {name: value for name, value in values.items() if value is not None}
        row = {"t_ms": at_s * 1000, "values": known}
        rows.append({**row, "idle": True} if at_s < 0 else row)
    found = hardware.columns(rows, sample_s)
    assert found is not None
    return found


def curve(at_s: float) -> float:
    """Return 40 W before the load; in it a wave around 100 W that also rises."""
    return 40.0 if at_s < 0 else 100 + 30 * math.sin(at_s / 3) + at_s


def integral_wh(start_s: float, end_s: float) -> float:
    """Return the curve's integral by its antiderivative."""

    def upto(at_s: float) -> float:
        return 100 * at_s - 90 * math.cos(at_s / 3) + at_s * at_s / 2

    return (upto(end_s) - upto(start_s)) / 3600


@pytest.mark.parametrize(("start_s", "end_s"), [(0.3, 59.4), (10.0, 20.0), (41.17, 47.9)])
def test_wh_are_the_curves_integral_over_the_windows_own_time(start_s: float, end_s: float) -> None:
    part = work(start_s * 1000, end_s * 1000, 1234, 50, 20)
    found = cost(samples(curve), part)
    wall, exact = found["wall"], integral_wh(start_s, end_s)
    assert wall["wh"] == pytest.approx(exact, rel=0.005)
    assert wall["idle_w"] == pytest.approx(40)
    assert wall["wh_net"] == pytest.approx(exact - 40 * (end_s - start_s) / 3600, rel=0.01)
    assert wall["mean_w"] == pytest.approx(exact * 3600 / (end_s - start_s), rel=0.005)
    assert wall["j_per_token"] == pytest.approx(exact * 3600 / 1234, rel=0.005)
    assert wall["wh_per_1000_answers"] == pytest.approx(exact * 20, rel=0.005)
    assert wall["wh_per_1000_correct"] == pytest.approx(exact * 50, rel=0.005)
    assert wall["price_per_1000_correct"] == pytest.approx(exact * 50 / 1000 * 0.4, rel=0.005)
    assert wall["coverage"] == pytest.approx(1)
    assert wall["reason"] is None
    hours = (end_s - start_s) / 3600
    assert found["hours"]["price_per_1000_answers"] == pytest.approx(hours * 2.0 * 20)
    assert [stage["wall"] for stage in found["stages"]] == [wall]


def test_the_oracle_can_fail() -> None:
    assert integral_wh(0, 60) == pytest.approx(
        sum(curve(step / 1000) for step in range(60_000)) / 1000 / 3600, rel=1e-3
    )
    assert integral_wh(0, 60) != pytest.approx(integral_wh(0, 59), rel=0.005)


def test_a_step_of_the_power_at_a_windows_ends_belongs_to_the_time_outside() -> None:
    table = samples(lambda s: 40.0 if s < 10.4 or s > 20.6 else 200.0)
    found = cost(table, work(10_400, 20_600, 1, 1, 1))
    assert found["wall"]["wh"] == pytest.approx(200 * 10.2 / 3600)
    assert found["wall"]["peak_w"] == 200


def test_a_counter_of_joules_counts_more_than_watts() -> None:
    table = samples(lambda _: None, gpu_j=lambda s: 5000 + 250 * s, gpu_w=lambda s: 1.0)
    found = cost(table, work(0, 30_000, 100, 10, None), host="client and server")
    assert found["gpu"]["wh"] == pytest.approx(250 * 30 / 3600)
    assert found["gpu"]["idle_w"] == pytest.approx(250)
    assert found["gpu"]["wh_net"] == pytest.approx(0, abs=1e-9)
    assert found["gpu"]["wh_per_1000_correct"] is None, "nothing was graded"


def test_a_counter_that_starts_again_does_not_count_backwards() -> None:
    table = samples(lambda _: None, gpu_j=lambda s: 100 * s if s < 10 else 100 * (s - 10))
    found = cost(table, work(0, 30_000, 1, 1, 1), host="client and server")
    assert found["gpu"]["mean_w"] == pytest.approx(100)
    assert found["gpu"]["coverage"] == pytest.approx(29 / 30)


def test_a_plug_that_stops_answering_makes_the_wh_null_with_the_reason() -> None:
    table = samples(lambda s: curve(s) if s < 25 else None)
    table["missing"]["wall"] = "no whole answer within 5 s"
    found = cost(table, work(0, 60_000, 100, 10, 5))
    wall = found["wall"]
    assert wall["reason"] == "samples cover 40% of it: no whole answer within 5 s"
    figures = [wall[name] for name in hardware.ENERGY_KEYS if name not in ("coverage", "reason")]
    assert set(figures) == {None}
    assert wall["coverage"] == pytest.approx(0.4)


def test_a_short_gap_counts_with_the_mean_of_what_is_covered() -> None:
    table = samples(lambda s: None if 20 < s < 28 else 100.0)
    found = cost(table, work(0, 60_000, 100, 10, 5))
    assert found["wall"]["coverage"] == pytest.approx(52 / 60)
    assert found["wall"]["wh"] == pytest.approx(100 / 60)


def test_one_lost_sample_is_no_gap() -> None:
    table = samples(lambda s: None if s == 20 else 100.0)
    found = cost(table, work(0, 60_000, 100, 10, 5))
    assert found["wall"]["coverage"] == pytest.approx(1)


def test_stages_have_their_own_windows_and_the_whole_leaves_out_the_pauses() -> None:
    table = samples(lambda s: 50.0 if s < 30 else 500.0 if s < 40 else 100.0)
    stages = [work(0, 29_000, 300, 30, 15), work(41_000, 60_000, 200, 20, None)]
    found = cost(table, *stages)
    first, second = (stage["wall"] for stage in found["stages"])
    assert first["wh"] == pytest.approx(50 * 29 / 3600)
    assert second["wh"] == pytest.approx(100 * 19 / 3600)
    assert found["wall"]["wh"] == pytest.approx(first["wh"] + second["wh"])
    assert found["wall"]["peak_w"] == 100
    assert found["wall"]["j_per_token"] == pytest.approx((50 * 29 + 100 * 19) / 500)
    assert found["wall"]["wh_per_1000_correct"] is None, "one stage was not graded"


def test_a_stage_without_samples_makes_the_whole_unknown() -> None:
    table = samples(lambda s: 100.0 if s < 30 else None)
    stages = [work(0, 20_000, 1, 1, 1), work(30_000, 60_000, 1, 1, 1)]
    found = cost(table, *stages)
    assert found["stages"][0]["wall"]["wh"] is not None
    assert found["wall"]["wh"] is None
    assert found["wall"]["reason"] == "stage 2: samples cover 0% of it"


def test_watts_of_the_clients_machine_are_not_a_remote_servers() -> None:
    table = samples(curve, cpu_package_w=lambda _: 9.0, gpu_w=lambda _: 8.0)
    found = cost(table, work(0, 60_000, 1, 1, 1))
    for name in ("gpu", "cpu_package"):
        assert found[name]["wh"] is None
        assert found[name]["reason"].startswith("the server runs on another machine")
    assert found["wall"]["wh"] is not None, "where the plug is, its owner knows"


def test_a_dcgm_pages_gpus_are_the_servers_wherever_it_is() -> None:
    table = samples(lambda _: None, dcgm_gpu_w=lambda _: 300.0, gpu_w=lambda _: 8.0)
    found = cost(table, work(0, 36_000, 1, 1, 1))
    assert found["gpu"]["wh"] == pytest.approx(3.0)


def test_without_samples_each_source_says_why_and_the_hours_still_cost() -> None:
    found = cost(None, work(0, 3_600_000, 1, 1000, 500), host=None)
    assert found["wall"]["reason"] == "hardware.sample_s is off"
    assert found["hours"]["price_per_1000_correct"] == 4.0
    assert hardware.energy(None, [work(0, 1, 1, 1, 1)], FREE) is None


def test_nothing_is_divided_by_nothing() -> None:
    found = cost(samples(curve), work(0, 60_000, 0, 0, 0))
    assert found["wall"]["wh"] is not None
    assert found["wall"]["j_per_token"] is None
    assert found["wall"]["wh_per_1000_answers"] is None
    empty = cost(samples(curve))
    assert empty["wall"]["reason"] == "nothing was asked"


def test_without_an_idle_time_nothing_is_net() -> None:
    found = cost(samples(curve, idle_s=0), work(0, 60_000, 1, 1, 1))
    assert found["wall"]["idle_w"] is None
    assert found["wall"]["wh_net"] is None
    assert found["wall"]["wh"] is not None


def test_a_very_long_run_keeps_a_bounded_number_of_rows() -> None:
    rows = [{"t_ms": place * 1000.0, "values": {"wall_w": 100.0}} for place in range(25_000)]
    table = hardware.columns(rows, 1.0)
    assert table is not None
    assert table["every"] == 3
    assert len(table["t_ms"]) == 8334
    found = cost(table, work(0, 24_000_000, 1, 1, 1))
    assert found["wall"]["wh"] == pytest.approx(24_000 * 100 / 3600, rel=1e-3)


def test_no_rows_make_no_samples() -> None:
    assert hardware.columns([], 1.0) is None
    assert hardware.columns([{"t_ms": 0.0, "values": {}}], None) is None


def test_a_resumed_run_has_two_idle_times_and_the_last_one_counts() -> None:
    rows: list[dict[str, Any]] = []
    for start_s, idle_w in ((-3, 40.0), (97, 60.0)):
        rows += [
            {"t_ms": (start_s + s) * 1000.0, "values": {"wall_w": idle_w}, "idle": True}
            for s in range(4)
        ]
    rows += [{"t_ms": s * 1000.0, "values": {"wall_w": 100.0}} for s in range(101, 140)]
    table = hardware.columns(rows, 1.0)
    assert table is not None
    assert table["idle_ms"] == [[-3000, 0], [97_000, 100_000]]
    found = cost(table, work(102_000, 138_000, 1, 1, 1))
    assert found["wall"]["idle_w"] == pytest.approx(60)


# --- Heat, room, and what validity makes of it ---

HERE = {"host": "client and server", "cores_usable": 4.0, "gpus": [{"memory_bytes": 24 << 30}]}


def load(**columns: Callable[[float], Any]) -> dict[str, Any]:
    """Return the figures of a minute's load in two stages, on a machine with one GPU."""
    found = hardware.figures(
        samples(lambda _: None, 60, 1.0, 3.0, **columns),
        [(0.0, 30_000.0), (30_000.0, 60_000.0)],
        HERE,
    )
    assert found is not None
    return found


def reasons(figures: dict[str, Any], shared: bool | None = None) -> dict[str, str]:
    """Return each reason of the hardware's rules that applies."""
    report = st.LoadReport(st.LoadStart())
    report.hardware = {"load": figures, "shared_server": shared}
    config = st.Config(server="http://127.0.0.1:9/v1", model="m")
    run = st.Evidence(config, {}, report)
    rules = (
        hardware.throttled,
        hardware.swapping,
        hardware.busy_machine,
        hardware.on_battery,
        hardware.shared_server,
    )
    found = [reason for rule in rules if (reason := rule(run)) is not None]
    assert {reason.verdict for reason in found} <= {"SUSPECT"}
    return {reason.code: reason.message for reason in found}


BUSY_GPU = {
    "gpu0_util_percent": lambda s: 99,
    "gpu0_mhz": lambda s: 2500,
    "gpu0_temp_c": lambda s: 60 + s / 6,
    "gpu0_memory_bytes": lambda s: (20 << 30) if s > 0 else (18 << 30),
    "gpu0_throttle": lambda s: [],
}


def test_an_idle_machine_and_a_good_run_give_no_reason() -> None:
    figures = load(
        **BUSY_GPU,
        others_cpu_percent=lambda s: 12.0,
        gpu_others_percent=lambda s: 1.0,
        on_battery=lambda s: False,
        swap_used_bytes=lambda s: 1 << 30,
        swapped_out_bytes=lambda s: 5 << 30,
        cpu_mhz=lambda s: 3900 + 50 * math.sin(s),
        cpu_percent=lambda s: 80.0,
        cpu_throttle=lambda s: [],
    )
    assert reasons(figures) == {}
    assert figures["stages"][1]["gpu0"] == {
        "mhz": 2500,
        "temp_c": 70,
        "throttle": {},
        "slow_clock_share": 0,
    }
    assert figures["vram_headroom_bytes"] == [4 << 30]


def test_a_thermal_reason_that_stood_for_a_tenth_of_a_stage_is_throttled() -> None:
    hot = {**BUSY_GPU, "gpu0_throttle": lambda s: ["hw_thermal_slowdown"] if s > 56 else []}
    figures = load(**hot)
    assert figures["stages"][1]["gpu0"]["throttle"] == {"hw_thermal_slowdown": 0.129}
    said = "GPU0 held back in stage 2 (hw thermal slowdown) for 13%"
    assert said in reasons(figures)["throttled"]
    brief = {**BUSY_GPU, "gpu0_throttle": lambda s: ["hw_thermal_slowdown"] if s > 58 else []}
    assert reasons(load(**brief)) == {}


def test_a_gpu_at_the_power_limit_that_it_is_set_to_is_not_throttled() -> None:
    capped = {
        **BUSY_GPU,
        "gpu0_throttle": lambda s: ["sw_power_cap"],
        "gpu0_mhz": lambda s: 2500 if s < 40 else 1500,
    }
    figures = load(**capped)
    assert figures["stages"][0]["gpu0"]["throttle"] == {"sw_power_cap": 1.0}
    assert reasons(figures) == {}


def test_clocks_that_fall_under_load_are_throttled() -> None:
    falling = load(
        cpu_mhz=lambda s: 4000 if s < 45 else 2800,
        cpu_percent=lambda s: 95.0,
    )
    assert falling["stages"][1]["cpu"]["slow_clock_share"] == pytest.approx(0.516, abs=0.01)
    assert "CPU clocks fell in stage 2 for 52%" in reasons(falling)["throttled"]
    resting = load(
        cpu_mhz=lambda s: 4000 if s < 45 else 800, cpu_percent=lambda s: 95 if s < 45 else 5
    )
    assert reasons(resting) == {}, "a CPU with nothing to do clocks down"


@pytest.mark.parametrize("name", ["swap_used_bytes", "swapped_out_bytes"])
def test_memory_that_is_swapped_out_during_the_load_is_swapping(name: str) -> None:
    figures = load(**{name: lambda s: (1 << 30) + max(s, 0) * (4 << 20)})
    assert reasons(figures)["swapping"].startswith("240 MiB were swapped out")
    little = load(**{name: lambda s: (1 << 30) + max(s, 0) * (1 << 20)})
    assert reasons(little) == {}


def test_others_that_use_a_fifth_of_the_cores_are_named() -> None:
    figures = load(others_cpu_percent=lambda s: 100.0)
    figures["others"] = [
        {"name": "ffmpeg", "pid": 7, "cpu_s": 30.2},
        {"name": "python", "pid": 9, "cpu_s": 50.1},
        {"name": "ffmpeg", "pid": 8, "cpu_s": 25.2},
    ]
    said = "other processes used 25% of the cores: ffmpeg (55 s), python (50 s)"
    assert said in reasons(figures)["busy_machine"]
    before = load(others_cpu_percent=lambda s: 400.0 if s < 0 else 20.0)
    assert reasons(before) == {}, "what went on before the load does not count"


def test_others_that_use_a_fifth_of_the_gpu_are_told_of() -> None:
    figures = load(gpu_others_percent=lambda s: 30.0)
    assert "other processes used 30% of the GPU" in reasons(figures)["busy_machine"]


def test_a_run_on_the_battery_is_told_of_also_when_only_a_part_was() -> None:
    figures = load(on_battery=lambda s: s > 50)
    assert "battery" in reasons(figures)["on_battery"]


def test_the_clients_heat_and_battery_do_not_matter_to_a_remote_server() -> None:
    figures = load(
        **{**BUSY_GPU, "gpu0_throttle": lambda s: ["hw_thermal_slowdown"]},
        on_battery=lambda s: True,
        others_cpu_percent=lambda s: 300.0,
    )
    figures["host"] = "client"
    assert set(reasons(figures)) == {"busy_machine"}, "a busy client still measures badly"


def test_a_server_that_others_measured_too_is_told_of() -> None:
    figures = load(others_cpu_percent=lambda s: 1.0)
    assert "--wait" in reasons(figures, shared=True)["shared_server"]
    assert reasons(figures, shared=False) == {}
    unwatched = st.LoadReport(st.LoadStart())
    run = st.Evidence(st.Config(server="embedded", model="m"), {}, unwatched)
    assert hardware.shared_server(run) is None
    assert hardware.throttled(run) is None


def test_what_the_servers_page_counted_is_what_it_grew_by() -> None:
    figures = load(
        generation_tokens=lambda s: 5000 + 10 * s,
        preemptions=lambda s: 3 if s < 20 else 5,
        running=lambda s: 4,
        kv_cache_usage=lambda s: s / 100,
    )
    assert figures["server"] == {
        "generation_tokens": 600,
        "preemptions": 2,
        "running_peak": 4,
        "kv_cache_usage_peak": 0.6,
    }


def test_a_spill_is_the_share_of_the_model_outside_the_vram() -> None:
    table = samples(lambda _: 1.0)
    found = hardware.figures(table, [(0, 60_000)], HERE, {"vram_share": 0.75})
    assert found is not None
    assert found["spill"] == 0.25
    assert hardware.figures(None, [(0, 1)], HERE) is None
    assert hardware.figures(table, [(1e9, 2e9)], HERE) is None
