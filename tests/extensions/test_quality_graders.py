"""What the graders promise: they agree with labels set by hand, refuse bad questions, and survive hostile answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llm_stresstest as st
from extensions import quality

LABELLED = json.loads(
    (Path(__file__).parents[1] / "data" / "graded_answers.json").read_text(encoding="utf-8")
)
RULE_GRADERS = ("exact", "contains", "regex", "numeric", "choice", "json", "fuzzy", "code")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's layers are Linux's")


def question(grader: str | None, expected: Any = None, **more: Any) -> st.Question:
    return st.Question.model_validate(
        {"id": "q", "question": "?", "grader": grader, "expected": expected, **more}
    )


def grade(grader: str, expected: Any, answer: str, **more: Any) -> quality.Grade:
    graded = quality.grade_answer(question(grader, expected, **more), answer, allow_code=True)
    assert graded is not None
    return graded


# === Agreement ===


@pytest.mark.parametrize("grader", RULE_GRADERS)
def test_a_grader_agrees_with_every_label_set_by_hand(grader: str) -> None:
    entries = [entry for entry in LABELLED if entry["grader"] == grader]
    disagreements = []
    for entry in entries:
        fields = {key: entry[key] for key in ("tolerance", "threshold") if key in entry}
        graded = grade(grader, entry["expected"], entry["answer"], **fields)
        if (graded.score > 0) != (entry["score"] > 0):
            disagreements.append((entry["kind"], entry["expected"], entry["answer"], graded))
    assert disagreements == []
    assert len(entries) >= 30
    assert {0, 1} == {entry["score"] for entry in entries}


@pytest.mark.parametrize("grader", RULE_GRADERS)
def test_every_labelled_question_is_a_good_one(grader: str) -> None:
    for entry in LABELLED:
        if entry["grader"] == grader:
            fields = {key: entry[key] for key in ("tolerance", "threshold") if key in entry}
            assert quality.check_question(question(grader, entry["expected"], **fields)) is None


@pytest.mark.parametrize("grader", [name for name in RULE_GRADERS if name != "code"])
def test_the_labels_notice_a_grader_that_says_yes_or_no_to_all(grader: str) -> None:
    scores = [entry["score"] for entry in LABELLED if entry["grader"] == grader]
    assert 0.2 < sum(scores) / len(scores) < 0.85


def test_every_shipped_question_can_be_graded() -> None:
    for entry in st.load_questions(st.HERE / "questions.json"):
        assert quality.check_question(entry) is None, entry.id


def test_a_shipped_question_is_not_answered_by_its_own_text_or_by_a_refusal() -> None:
    for entry in st.load_questions(st.HERE / "questions.json"):
        if entry.grader == "code":
            continue
        for answer in (
            "",
            entry.texts[-1],
            "I'm sorry, but I can't answer that.",
            "Das kann ich nicht beantworten.",
        ):
            graded = quality.grade_answer(entry, answer)
            assert graded is not None
            assert graded.score == 0, (entry.id, answer, graded)


# === Grades ===


def test_a_question_without_a_grader_stays_ungraded() -> None:
    assert quality.grade_answer(question(None), "42") is None


@pytest.mark.parametrize("grader", ["semantic", "judge"])
def test_a_grader_of_another_kind_leaves_the_answer_ungraded(grader: str) -> None:
    if grader in quality.GRADERS:
        pytest.skip("is a rule grader by now")
    assert quality.grade_answer(question(grader, "x"), "x") is None


def test_code_is_not_run_unless_it_is_allowed() -> None:
    assert quality.grade_answer(question("code", "assert f()"), "def f(): return 1") is None


def test_a_reason_is_one_short_line_without_control_characters() -> None:
    reason = grade("exact", "x", "\x1b[31mred\n" * 1000).reason
    assert len(reason) <= quality.REASON_CHARS
    assert reason.isprintable()


def test_a_reason_says_what_was_expected_and_what_was_found() -> None:
    assert grade("numeric", 42, "It is 41.").reason == "expected 42, found 41"
    assert grade("numeric", 42, "It is late.").reason == "no number in the answer"
    assert grade("choice", "B", "C").reason == "expected B, chose C"
    assert (
        grade("json", {"fields": {"a.b": 1}}, '{"a": {"b": 2}}').reason
        == "a.b: expected 1, found 2"
    )
    assert (
        grade("code", "assert f(1) == 2", "def f(n): return n").reason
        == "does not hold: assert f(1) == 2"
    )


def test_fuzzy_scores_the_similarity_above_its_threshold_and_0_below() -> None:
    assert grade("fuzzy", "the early bird", "**The early bird!**").score == 1.0
    assert 0.9 < grade("fuzzy", "the early bird", "the early birds").score < 1.0
    assert grade("fuzzy", "the early bird", "the early birds", threshold=0.99).score == 0.0


def test_an_exception_in_a_grader_is_a_grade_of_0(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_question: st.Question, _answer: str) -> quality.Grade:
        raise RecursionError("too deep")

    monkeypatch.setitem(quality.GRADERS, "exact", broken)
    assert grade("exact", "x", "x") == quality.Grade(
        0.0, "could not be graded: RecursionError: too deep"
    )


def test_a_missing_package_is_an_error_and_no_bad_grade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidfuzz.fuzz", None)
    with pytest.raises(st.ExtensionError, match="quality needs rapidfuzz: uv sync --group quality"):
        grade("fuzzy", "a", "a")
    with pytest.raises(st.ExtensionError):
        quality.check_question(question("fuzzy", "a"))


# === Questions ===


@pytest.mark.parametrize(
    ("grader", "expected", "problem"),
    [
        ("exact", None, "a text with words"),
        ("exact", 7, "a text with words"),
        ("exact", [], "a text with words"),
        ("exact", ["a", "?!"], "a text with words"),
        ("contains", {"all": ["a"]}, '{"any": [...]}'),
        ("contains", {"any": []}, '{"any": [...]}'),
        ("contains", ["a", {"any": "b"}], '{"any": [...]}'),
        ("contains", "?", "for punctuation use regex"),
        ("contains", [1], "texts with a letter"),
        ("regex", "(a", "a pattern that compiles"),
        ("regex", None, "a pattern"),
        ("numeric", None, "a number"),
        ("numeric", "42", "a number"),
        ("numeric", True, "a number"),
        ("numeric", 10**400, "a number that fits a float"),
        ("choice", "AB", "a letter"),
        ("choice", [], "a letter"),
        ("choice", 1, "a letter"),
        ("json", {}, '{"schema": {...}}'),
        ("json", {"field": {"a": 1}}, '{"schema": {...}}'),
        ("json", {"fields": {}}, "fields to be"),
        ("json", {"schema": {"type": "objekt"}}, "a valid JSON Schema"),
        ("fuzzy", None, "a text with words"),
        ("code", "add(1, 2) == 3", "at least one assert"),
        ("code", "assert (", "at least one assert"),
        ("code", None, "at least one assert"),
    ],
)
def test_a_question_that_cannot_be_graded_says_what_it_needs(
    grader: str, expected: Any, problem: str
) -> None:
    said = quality.check_question(question(grader, expected))
    assert said is not None
    assert said.startswith(f"{grader} needs expected: ")
    assert problem in said
    assert "\n" not in said


def test_tolerance_and_threshold_belong_to_one_grader_each() -> None:
    assert "no tolerance" in str(quality.check_question(question("exact", "a", tolerance=1.0)))
    assert "no threshold" in str(quality.check_question(question("numeric", 1, threshold=0.5)))
    assert quality.check_question(question("numeric", 1, tolerance=0.5)) is None
    assert quality.check_question(question("fuzzy", "a", threshold=0.5)) is None
    assert quality.check_question(question(None)) is None


# === Hostile answers ===


def test_a_catastrophic_pattern_ends_in_time() -> None:
    start = time.monotonic()
    graded = grade("regex", "(a|aa)+$", "a" * 5000 + "!")
    assert graded.score == 0
    assert "took longer" in graded.reason
    assert time.monotonic() - start < 10 * quality.REGEX_S


def test_a_catastrophic_pattern_of_a_schema_ends_in_time() -> None:
    schema = {"type": "object", "properties": {"a": {"pattern": "^(a|aa)+$"}}}
    start = time.monotonic()
    assert grade("json", {"schema": schema}, json.dumps({"a": "a" * 5000 + "!"})).score == 0
    assert time.monotonic() - start < 10 * quality.REGEX_S


def test_a_schema_is_never_fetched_from_the_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        reference = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        assert grade("json", {"schema": {"$ref": reference}}, '{"a": 1}').score == 0
        with pytest.raises(TimeoutError):
            server.accept()


HOSTILE = {
    "many digits": "9" * 200_000,
    "many groups": "1," * 100_000,
    "many spaces": "1 " * 100_000 + " " * 100_000,
    "many brackets": "[" * 100_000,
    "many objects": '{"a":' * 100_000,
    "many stars": "**a " * 50_000,
    "many fences": "```\n" * 50_000,
    "many letters": "A) B) C) " * 20_000,
    "many answers": "the answer is " * 20_000,
    "many boxes": "\\boxed{" * 50_000,
    "many fractions": "\\frac{1}{2}" * 20_000,
    "huge power": "10^999999999",
    "huge exponent": "1e999999999999",
    "division by zero": "1/0",
    "zero to a negative power": "0^-1",
    "lone surrogate": "\ud800 42",
    "null characters": "\x00" * 1000,
    "huge JSON number": "1" * 10_000,
    "deep JSON": "[" * 5000 + "]" * 5000,
    "right to left": "\u202e42\u202c",
}
EXPECTED = {
    "exact": "42",
    "contains": "42",
    "regex": "zzz",
    "numeric": 1e300,
    "choice": "E",
    "json": {"fields": {"a": 1}},
    "fuzzy": "zzzzz",
}


@pytest.mark.parametrize("grader", EXPECTED)
@pytest.mark.parametrize("name", HOSTILE)
def test_no_answer_breaks_a_grader_or_keeps_it_busy(grader: str, name: str) -> None:
    start = time.process_time()
    graded = grade(grader, EXPECTED[grader], HOSTILE[name])
    assert 0 <= graded.score <= 1
    assert not graded.reason.startswith("could not be graded"), graded
    assert time.process_time() - start < 5


# === The sandbox ===
#
# Every attack runs against all layers together, and against single layers that must stop it alone: the audit hook
# because it is the only one everywhere, the kernel's because the hook can be got round.


@pytest.fixture(scope="module")
def held() -> list[str]:
    """Return the layers that this system has."""
    return quality.run_confined("", "assert True").layers


@pytest.fixture
def attack(held: list[str]) -> Callable[..., quality.Verdict]:
    """Run code as an answer, confined by all layers or by those named; skip where this system lacks one."""

    def run(
        code: str, layers: tuple[str, ...] = quality.LAYERS, asserts: str = "assert True"
    ) -> quality.Verdict:
        if layers != quality.LAYERS and not set(layers) <= set(held):
            pytest.skip(f"this system has only {held}")
        return quality.run_confined(code, asserts, layers)

    return run


ALL = quality.LAYERS
HOOK, NAMESPACES, LANDLOCK, SECCOMP = ("hook",), ("namespaces",), ("landlock",), ("seccomp",)


def name_of(layers: tuple[str, ...]) -> str:
    return "all" if layers == ALL else "+".join(layers)


def test_the_hook_holds_everywhere(held: list[str]) -> None:
    assert "hook" in held


def test_the_environment_of_the_code_is_empty(
    monkeypatch: pytest.MonkeyPatch, attack: Callable[..., Any]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    code = "import os\nfound = [value for value in os.environ.values() if 'secret' in value]"
    assert attack(code, asserts="assert found == []").error is None


READ_ENVIRONMENTS = """
import os
found = []
for pid in [*map(str, range(1, 100000)), "self", "thread-self"] if SEARCH else [PID]:
    try:
        descriptor = os.open(f"/proc/{pid}/environ", os.O_RDONLY)
        found.append(os.read(descriptor, 1000000))
    except OSError:
        pass
"""


@linux_only
@pytest.mark.parametrize("layers", [ALL, HOOK, NAMESPACES, LANDLOCK], ids=name_of)
def test_code_cannot_read_a_secret_of_the_grader_in_proc(
    layers: tuple[str, ...], attack: Callable[..., Any]
) -> None:
    environment = Path(f"/proc/{os.getpid()}/environ").read_bytes()
    if not environment:
        pytest.skip("this process has no environment")
    code = READ_ENVIRONMENTS.replace("SEARCH", "False").replace("PID", str(os.getpid()))
    assert (
        attack(code, layers, f"assert not any({environment[:8]!r} in text for text in found)").error
        is None
    )


@linux_only
def test_the_attack_on_proc_works_where_nothing_confines_it(attack: Callable[..., Any]) -> None:
    if os.geteuid() == 0:
        pytest.skip("the code is not root any more, whose environment it would read")
    environment = Path(f"/proc/{os.getpid()}/environ").read_bytes()
    code = READ_ENVIRONMENTS.replace("SEARCH", "False").replace("PID", str(os.getpid()))
    assert attack(code, (), f"assert {environment[:8]!r} in found[0]").error is None


@linux_only
def test_no_process_is_to_be_seen_in_proc(attack: Callable[..., Any]) -> None:
    code = READ_ENVIRONMENTS.replace("SEARCH", "True")
    assert attack(code, ALL, "assert found == []").error is None


WRITES = {
    "open": "open(PATH, 'w').write('x')",
    "append": "open(PATH, 'a').write('x')",
    "os.open": "import os\nos.write(os.open(PATH, os.O_CREAT | os.O_WRONLY), b'x')",
    "pathlib": "import pathlib\npathlib.Path(PATH).write_text('x')",
    "dot-dot": "open('../' * 20 + PATH.lstrip('/'), 'w').write('x')",
    "symlink": "import os\nos.symlink(os.path.dirname(PATH), 'd')\nopen('d/' + os.path.basename(PATH), 'w').write('x')",
    "mkdir": "import os\nos.mkdir(PATH)",
    "rename": "import os\nopen('own', 'w').close()\nos.rename('own', PATH)",
    "shutil": "import shutil\nopen('own', 'w').write('x')\nshutil.copy('own', PATH)",
    "sqlite": "import sqlite3\nsqlite3.connect(PATH).execute('create table t (n)')",
}


@pytest.mark.parametrize("layers", [ALL, HOOK, NAMESPACES, LANDLOCK], ids=name_of)
@pytest.mark.parametrize("way", WRITES)
def test_code_cannot_write_outside_its_folder(
    way: str, layers: tuple[str, ...], tmp_path: Path, attack: Callable[..., Any]
) -> None:
    if way == "sqlite" and layers == HOOK:
        pytest.skip("SQLite opens files without Python: the hook alone does not see it")
    target = tmp_path / "outside"
    error = attack(WRITES[way].replace("PATH", repr(str(target))), layers).error
    assert error is not None
    assert not target.exists()


@pytest.mark.parametrize("way", ["open", "os.open", "rename", "symlink", "sqlite"])
def test_the_writing_attacks_work_unconfined(
    way: str, tmp_path: Path, attack: Callable[..., Any]
) -> None:
    target = tmp_path / "outside"
    assert attack(WRITES[way].replace("PATH", repr(str(target))), ()).error is None
    assert target.exists()


@pytest.mark.parametrize("layers", [ALL, HOOK, NAMESPACES, LANDLOCK], ids=name_of)
def test_code_cannot_remove_or_change_a_file_outside(
    layers: tuple[str, ...], tmp_path: Path, attack: Callable[..., Any]
) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    ways = [
        "os.remove(PATH)",
        "os.truncate(PATH, 0)",
        "open(PATH, 'r+').truncate(0)",
        "os.rename(PATH, PATH + '2')",
    ]
    for way in ways:
        assert (
            attack("import os\n" + way.replace("PATH", repr(str(target))), layers).error is not None
        )
    assert target.read_text() == "precious"


@pytest.mark.parametrize("layers", [ALL, HOOK, LANDLOCK], ids=name_of)
def test_code_cannot_read_a_file_outside(
    layers: tuple[str, ...], tmp_path: Path, attack: Callable[..., Any]
) -> None:
    secret = tmp_path / "key"
    secret.write_text("sk-secret")
    assert "PermissionError" in str(attack(f"open({str(secret)!r}).read()", layers).error)


def test_code_can_use_files_in_its_own_folder(attack: Callable[..., Any]) -> None:
    code = (
        "import os, tempfile\nos.mkdir('d')\nopen('d/f', 'w').write('x')\nos.rename('d/f', 'g')\n"
    )
    code += "with tempfile.NamedTemporaryFile() as file:\n    file.write(b'x')\n"
    assert (
        attack(code, ALL, "assert open('g').read() == 'x' and os.listdir('d') == []").error is None
    )


@pytest.fixture
def listener() -> Iterator[tuple[int, list[Any]]]:
    """Listen on the loopback interface; yield the port, and what connected to it."""
    connected: list[Any] = []

    def accept(server: socket.socket) -> None:
        while True:
            try:
                connection, address = server.accept()
            except OSError:
                return
            connection.close()
            connected.append(address)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept, args=(server,))
        thread.start()
        yield server.getsockname()[1], connected
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


CONNECT = "import socket\nsocket.create_connection(('127.0.0.1', PORT), timeout=2).send(b'x')"


@pytest.mark.parametrize("layers", [ALL, HOOK, NAMESPACES, LANDLOCK, SECCOMP], ids=name_of)
def test_code_cannot_reach_a_listening_server(
    layers: tuple[str, ...], listener: tuple[int, list[Any]], attack: Callable[..., Any]
) -> None:
    port, connected = listener
    assert attack(CONNECT.replace("PORT", str(port)), layers).error is not None
    assert connected == []


def test_the_attack_on_the_network_works_where_nothing_confines_it(
    listener: tuple[int, list[Any]], attack: Callable[..., Any]
) -> None:
    port, connected = listener
    assert attack(CONNECT.replace("PORT", str(port)), ()).error is None
    deadline = time.monotonic() + 5
    while not connected and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(connected) == 1


@pytest.mark.parametrize("layers", [ALL, HOOK, NAMESPACES, SECCOMP], ids=name_of)
def test_code_cannot_send_a_datagram(layers: tuple[str, ...], attack: Callable[..., Any]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.2)
        port = server.getsockname()[1]
        code = f"import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))"
        assert attack(code, layers).error is not None
        with pytest.raises(TimeoutError):
            server.recv(1)


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time\ntime.sleep(600)",
        "import threading\nthreading.Event().wait()",
    ],
)
def test_code_ends_at_its_limit(
    code: str, attack: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "CODE_S", 1)
    start = time.monotonic()
    assert attack(code).error is not None
    assert time.monotonic() - start < 4


def test_a_thread_of_the_code_does_not_keep_it_alive(attack: Callable[..., Any]) -> None:
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()"
    start = time.monotonic()
    assert attack(code).error is None
    assert time.monotonic() - start < quality.CODE_S


DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
time.sleep(0.2)
"""


def survivors() -> list[int]:
    """Return the processes that still run the child's program."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"_child_main()" in command and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def survivors_after(seconds: float) -> list[int]:
    """Return the processes that are still there after a time, sooner when there is none."""
    deadline = time.monotonic() + seconds
    while survivors() and time.monotonic() < deadline:
        time.sleep(0.01)
    return survivors()


@linux_only
@pytest.mark.parametrize("layers", [ALL, HOOK, NAMESPACES, SECCOMP], ids=name_of)
def test_no_process_outlives_the_code(layers: tuple[str, ...], attack: Callable[..., Any]) -> None:
    attack(DAEMON, layers)
    assert survivors_after(2) == []


@linux_only
def test_the_daemon_lives_on_where_nothing_confines_it(attack: Callable[..., Any]) -> None:
    attack(DAEMON, ())
    left = survivors_after(0.2)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(left) == 1


@linux_only
@pytest.mark.parametrize("layers", [ALL, HOOK, NAMESPACES, SECCOMP], ids=name_of)
def test_a_fork_bomb_ends_with_the_code(
    layers: tuple[str, ...], attack: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "CODE_S", 1)
    bomb = "import os, time\nfor _ in range(6):\n    os.fork()\nos.setsid()\ntime.sleep(600)"  # 64: a failure is mild
    assert attack(bomb, layers).error is not None
    assert survivors_after(2) == []


@linux_only
def test_code_that_ends_the_processes_above_it_passes_nothing(attack: Callable[..., Any]) -> None:
    code = "import os, signal\nfor pid in (os.getppid(), 1, -1):\n    os.kill(pid, signal.SIGKILL)"
    assert attack(code).error is not None
    assert attack(code, (*NAMESPACES, *LANDLOCK)).error is None or survivors_after(2) == []


def test_a_memory_hog_fails_and_takes_no_more_than_its_limit(attack: Callable[..., Any]) -> None:
    assert str(attack("x = bytearray(2 << 30)").error).startswith("MemoryError")
    assert attack("x = bytearray(64 << 20)").error is None


def test_huge_output_goes_nowhere(attack: Callable[..., Any]) -> None:
    code = "import sys\nfor _ in range(200):\n    print('x' * 1000000)\n    sys.stderr.write('y' * 1000000)"
    assert attack(code).error is None


@linux_only
def test_a_file_cannot_grow_without_end(attack: Callable[..., Any]) -> None:
    code = "with open('big', 'wb') as file:\n    for _ in range(100):\n        file.write(bytes(1 << 20))"
    assert attack(code).error is not None


@linux_only
def test_many_files_cannot_fill_the_disk(attack: Callable[..., Any]) -> None:
    code = "for number in range(20):\n    open(str(number), 'wb').write(bytes(15 << 20))"
    assert "No space left" in str(attack(code, NAMESPACES).error)


@pytest.mark.parametrize("layers", [ALL, NAMESPACES, ()], ids=name_of)
def test_nothing_of_the_code_is_left_on_disk(
    layers: tuple[str, ...],
    tmp_path: Path,
    attack: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code = "import os\nos.makedirs('a/b/c')\nopen('a/b/c/f', 'w').write('x')\nos.chmod('a/b', 0)"
    assert attack(code, layers).error is None
    assert list(tmp_path.iterdir()) == []


FORGERY = """
import os
for descriptor in range(64):
    try:
        os.write(descriptor, b'{"error": null, "layers": []}')
    except OSError:
        pass
os._exit(0)
"""


@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit(0)",
        "import os\nos._exit(0)",
        "import sys\nsys.exit()",
        "exit()",
        "raise KeyboardInterrupt",
        "import os\nos.abort()",
        "def f(:",
        "\x00",
        FORGERY,
        "class Liar(Exception):\n    def __str__(self): raise self\nraise Liar",
    ],
)
def test_leaving_before_the_asserts_or_forging_a_verdict_is_no_pass(
    code: str, attack: Callable[..., Any]
) -> None:
    assert attack(code, asserts="assert f() == 1").error is not None
    assert attack(code).error is not None


def test_an_assert_that_fails_or_raises_is_named(attack: Callable[..., Any]) -> None:
    code = "def f(n):\n    return n"
    assert (
        attack(code, asserts="assert f(1) == 1\nassert f(2) == 3").error
        == "does not hold: assert f(2) == 3"
    )
    assert "TypeError" in str(attack(code, asserts="assert f() == 1").error)
    assert attack(code, asserts="x = f(1)\nassert x == 1").error is None


def test_ctypes_is_out_of_reach(attack: Callable[..., Any]) -> None:
    assert "ImportError" in str(attack("import ctypes").error)
    assert "ImportError" in str(attack("import _ctypes").error)


ESCAPES = {
    "unmount": "libc.umount2(b'/proc', 2)",
    "remount": "libc.mount(None, b'/', None, 32 | 4096, None)",
    "nest": "libc.unshare(0x10020000)\nlibc.umount2(b'/proc', 2)\nlibc.mount(None, b'/', None, 32, None)",
    "join": "libc.setns(os.open('/proc/1/ns/mnt', 0), 0)",
    "clear": "libc.syscall(442, -100, b'/', 0x8000, struct.pack('=QQQQ', 0, 1, 0, 0), 32)",
}


@linux_only
@pytest.mark.parametrize("way", ESCAPES)
def test_the_namespaces_cannot_be_left(
    way: str, tmp_path: Path, attack: Callable[..., Any]
) -> None:
    """Without the hook and seccomp, as a program that got round them would try it."""
    target = tmp_path / "outside"
    code = "import ctypes, os, struct\nlibc = ctypes.CDLL(None)\n"
    code += f"try:\n    exec({ESCAPES[way]!r})\nexcept OSError: pass\n"
    code += f"try: open({str(target)!r}, 'w').write('x')\nexcept OSError: pass\nseen = os.listdir('/proc')"
    assert attack(code, NAMESPACES, "assert seen == []").error is None
    assert not target.exists()


@linux_only
def test_ordinary_code_finds_the_standard_library(attack: Callable[..., Any]) -> None:
    modules = "asyncio bisect collections dataclasses datetime decimal functools hashlib heapq itertools json math "
    modules += "random re "
    modules += "sqlite3 statistics string threading typing unittest uuid zlib zoneinfo concurrent.futures unicodedata"
    code = "".join(f"import {module}\n" for module in modules.split())
    code += "print(datetime.datetime.now(), zoneinfo.ZoneInfo('Europe/Berlin'), random.random(), uuid.uuid4())\n"
    code += "with concurrent.futures.ThreadPoolExecutor() as pool:\n    total = sum(pool.map(int, '123'))\n"
    assert attack(code, asserts="assert total == 6").error is None
