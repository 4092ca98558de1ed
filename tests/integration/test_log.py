"""The log tells afterwards what was run, how, and what came of it."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path

import llm_stresstest as st
from tests.conftest import Project, ScriptedServer, sends, whole


def entries(project: Project) -> dict[str, list[str]]:
    """Return what the log says, by the first word of each message."""
    said: dict[str, list[str]] = {}
    for line in project.log().splitlines():
        _, _, _, message = line.split(" ", 3)
        word, _, rest = message.partition(" ")
        said.setdefault(word, []).append(rest)
    return said


def test_the_log_of_a_clean_run_says_what_was_run_and_what_came_of_it(
    project: Project, server: ScriptedServer
) -> None:
    project.configure(server=server.url, thresholds={"ttft_ms.p50": "<= 0.001"}, api_key_env="KEY")
    assert project.run("run", env={"KEY": "sk-0123456789abcdef"}).code == 1
    said, data = entries(project), project.results()
    assert f"run_id={data['meta']['run_id']}" in said["run"][0]
    for name in ("config.json", "questions.json", "run.journal"):
        assert str(project.folder) in said["files"][0] and name in said["files"][0]
    assert said["server"] == [f"url={server.url} model=test-model api=chat"]
    assert json.loads(said["config"][0]) == data["meta"]["config"]
    assert said["stage"][0].startswith("stage=0 concurrent=2 requests=4 ok=4 failed=0")
    assert "duration_ms=" in said["stage"][0] and "tokens_per_s=" in said["stage"][0]
    assert "met=False" in said["threshold"][0]
    assert said["validity"] == ["verdict=SUSPECT status=complete"]
    codes = [reason["code"] for reason in data["meta"]["validity"]["reasons"]]
    assert [re.match(r"code=(\w+)", reason).group(1) for reason in said["reason"]] == codes  # type: ignore[union-attr]
    assert "run.json" in said["saved"][0] and ".log" in said["saved"][0]
    assert "sk-0123456789abcdef" not in project.log()


def test_the_log_tells_the_stages_of_a_sweep_apart(project: Project) -> None:
    project.run("run", "--set", "concurrent=[1,2]")
    stages = entries(project)["stage"]
    assert [stage.split()[:2] for stage in stages] == [
        ["stage=0", "concurrent=1"],
        ["stage=1", "concurrent=2"],
    ]


def test_failures_and_what_could_not_be_graded_stand_in_the_log(
    project: Project, server: ScriptedServer, tmp_path: Path
) -> None:
    server.behaviour = sends(whole(b"no", "500 Oops", "text/plain"))
    project.run("run")
    assert entries(project)["failures"] == ["kind=http_status http_status=500 message=no times=4"]
    answer = st.Result(0, "q", "?")
    with st.RunLog.kept():
        log = st.RunLog(tmp_path / "grades.log", dt.datetime.now(dt.UTC), "DEBUG", st.Redactor())
        log.grade(answer, None, "the judge said nothing")
        log.grade(answer, 1.0, "right")
    assert [
        line.split(" ", 2)[2] for line in next(tmp_path.glob("grades_*")).read_text().splitlines()
    ] == [
        'WARNING grade id=q index=0 reason="the judge said nothing"',
        "DEBUG grade id=q index=0 score=1.000 reason=right",
    ]


def test_results_and_log_of_a_run_share_one_time_stamp(project: Project) -> None:
    project.run("run")
    for _ in range(2):
        project.run("run")
    stamped = {path.stem for path in (project.folder / "results").glob("run_*.json")}
    logs = {path.stem for path in (project.folder / "logs").glob("*.log")}
    assert len(stamped) == 2 and len(logs) == 3, "each run has a log, also in the same second"
    assert {name[:19] for name in stamped} <= {name[:19] for name in logs}


def test_a_log_is_never_written_into_another_ones_file(tmp_path: Path) -> None:
    moment = dt.datetime(2026, 11, 23, 13, 15, tzinfo=dt.UTC)
    for number in range(3):
        with st.RunLog.kept():
            st.logger.info("run number %s", number)
            st.RunLog(tmp_path / "logs" / "run.log", moment, "INFO", st.Redactor())
    logs = {path.name: path.read_text()[-2] for path in (tmp_path / "logs").iterdir()}
    stamp = "run_20261123-131500"
    assert logs == {f"{stamp}.log": "0", f"{stamp}-2.log": "1", f"{stamp}-3.log": "2"}
