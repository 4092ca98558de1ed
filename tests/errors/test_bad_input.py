"""Bad files, keys and names: one line, exit code 2, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Finished, Project, ScriptedServer


def is_refused(finished: Finished, project: Project) -> bool:
    """Whether the program ended as the contract says for bad input."""
    assert "Traceback" not in finished.err
    assert finished.err.count("\n") == 1, finished.err
    assert finished.out == ""
    return finished.code == 2 and not project.files


@pytest.mark.parametrize("name", ["config.json", "questions.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\x00\x01\xfe\xff",
        b'"\xc3"',
        b"[" * 50_000,
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b"5",
        b'{"a": 1, "a": 2}',
    ],
    ids=["empty", "cut", "binary", "not UTF-8", "deep", "NaN", "1e999", "number", "twice"],
)
def test_a_damaged_file_is_refused(project: Project, name: str, content: bytes) -> None:
    project.write(name, content)
    finished = project.run("run")
    assert is_refused(finished, project)
    assert name in finished.err


@pytest.mark.parametrize("name", ["config.json", "questions.json"])
def test_a_missing_or_unreadable_file_is_refused(project: Project, name: str) -> None:
    option = "-c" if name == "config.json" else "-q"
    assert is_refused(project.run("run", option, "absent.json"), project)
    assert is_refused(project.run("run", option, "."), project)
    assert is_refused(project.run("run", option, "/dev/zero"), project)


def test_an_error_is_one_line_in_a_process_of_its_own(project: Project) -> None:
    project.configure(server="nonsense")
    finished = project.spawn("run")
    assert is_refused(finished, project)
    assert "server" in finished.err and "http://host:8000/v1" in finished.err


@pytest.mark.parametrize(
    "name",
    [
        "a/b", "../a", "..", ".", "", "./", "/etc/a", "a\\b", "a\x00b", "a\nb", "a\x1b[31mb", "CON", "nul.json", "com1",
        "x" * 300, "ü" * 150, ".hidden", "a:b", "a*b", " a", "a ", "a.", "\u202eabc",
    ],
)  # fmt: skip
def test_a_name_that_no_file_should_have_is_refused(project: Project, name: str) -> None:
    finished = project.run(name)
    assert is_refused(finished, project)
    assert "\x1b" not in finished.err and "\u202e" not in finished.err


@pytest.mark.parametrize("suffix", [".json", ".journal"])
def test_a_symbolic_link_in_the_way_is_refused_and_its_target_kept(
    project: Project, tmp_path: Path, suffix: str
) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.write_text("precious")
    (project.folder / "results").mkdir()
    (project.folder / "results" / f"run{suffix}").symlink_to(outside)
    for option in ([], ["--overwrite"], ["--resume"]):
        finished = project.run("run", *option)
        assert finished.code == 2 and "symbolic link" in finished.err
    assert outside.read_text() == "precious"


def test_names_of_tools_can_be_used_behind_a_dot_slash(project: Project) -> None:
    assert project.run("./verify").code == 0
    assert (project.folder / "results" / "verify.json").is_file()


def test_resuming_what_was_never_begun_is_one_line(project: Project) -> None:
    finished = project.run("run", "--resume")
    assert finished.code == 2
    assert "no run to go on with" in finished.err and finished.err.count("\n") == 1


def test_an_unknown_option_is_refused(project: Project) -> None:
    assert project.run("run", "--nonsense").code == 2


def test_a_missing_environment_variable_is_named(project: Project, server: ScriptedServer) -> None:
    project.configure(server=server.url, api_key_env="NO_SUCH_KEY")
    finished = project.run("run")
    assert is_refused(finished, project)
    assert "NO_SUCH_KEY" in finished.err


def test_more_connections_than_the_system_allows_are_refused(
    project: Project, server: ScriptedServer
) -> None:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if limit in (-1, resource.RLIM_INFINITY) or limit > 99_000:
        pytest.skip("this system allows more open files than config.json allows connections")
    project.configure(server=server.url, concurrent=limit)
    assert is_refused(project.run("run"), project)
