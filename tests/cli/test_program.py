"""The program as a process: what it imports, where it writes, how it ends."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from kmp_smsd import __version__
from kmp_smsd.cli.program import COMMANDS, program
from tests.cli.site import FIRST

IMPORTED = """
import sys
from kmp_smsd.cli import main
sys.argv = ["kmp-smsd", *sys.argv[1:]]
try:
    main()
finally:
    heavy = {"twisted", "paramiko"} & set(sys.modules)
    if heavy:
        print("imported", *heavy, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words",
    [
        ("--version",),
        ("--help",),
        ("keys", "import", "--help"),
        ("run", "--help"),
        ("check-config",),
        ("keys", "list"),
        ("registrations", "list"),
        ("bindings", "show", FIRST),
        ("holds", "list"),
        ("outbox", "list"),
        ("platforms", "list"),
        ("journal", "list"),
    ],
)
def test_quick_commands_import_neither_twisted_nor_paramiko(site, words):
    site.ready()
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, "--config", str(site.config), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "imported" not in done.stderr


def test_version_and_help_import_not_even_the_configuration():
    code = IMPORTED.replace('{"twisted", "paramiko"}', '{"pydantic", "sqlite_utils", "cryptography", "tabulate"}')
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"kmp-smsd {__version__}\n", "")


@pytest.mark.parametrize("words", [("keys",), ("db",)])
def test_a_command_without_its_verb_shows_its_help_as_a_message(site, words):
    done = site.run(*words)
    assert (done.exit_code, done.stdout) == (64, "")
    assert done.stderr.startswith("Usage: kmp-smsd")
    assert "\nCommands:\n" in done.stderr


def test_every_command_is_there_and_its_line_is_its_own():
    for name, (_, _, line) in COMMANDS.items():
        command = program.get_command(None, name)
        assert command.name == name
        first = command.help.split("\n")[0]
        assert line.rstrip(".").split(",")[0].split(":")[0] in first, name


def test_a_reader_who_has_seen_enough_ends_a_listing_in_silence(site):
    site.ready()
    rows = "".join(f"86138{number:08d},meter\n" for number in range(6000))
    site.ok("registrations", "import", str(site.write("many.csv", f"mdn,app_id\n{rows}")))
    process = site.process("registrations", "list", "--json")
    assert process.stdout.readline().startswith('{"mdn": "8613800000000"')
    process.stdout.close()
    assert process.wait(20) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


def test_a_reader_who_takes_their_time_gets_all_though_another_program_has_the_pipe_not_block(site):
    site.ready()
    rows = "".join(f"86138{number:08d},meter\n" for number in range(6000))
    site.ok("registrations", "import", str(site.write("many.csv", f"mdn,app_id\n{rows}")))
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    process = site.process("registrations", "list", "--json", stdout=writing)
    os.close(writing)
    with open(reading, encoding="utf-8") as said:
        assert said.readline().startswith('{"mdn": "8613800000000"')
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        assert len(said.readlines()) == 5999
    assert (process.communicate(timeout=20)[1], process.returncode) == ("", 0)


def test_a_progress_bar_is_for_people_only(site):
    site.ready()
    words = ("registrations", "import", str(site.write("numbers.csv", f"mdn,app_id\n{FIRST},meter\n")))

    def on_terminal(**env: str) -> str:
        ours, theirs = pty.openpty()
        plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        process = site.process(*words, stderr=theirs, env={**plain, **env})
        os.close(theirs)
        said = b""
        while True:
            try:
                octets = os.read(ours, 4096)
            except OSError:  # Linux's way to say that the other end is closed
                break
            said += octets
        os.close(ours)
        assert process.wait(20) == 0
        process.stdout.close()
        return said.decode()

    shown = on_terminal(TERM="xterm")
    assert "numbers.csv" in shown
    assert re.findall("[0-9]+%", shown) == ["0%", "50%", "100%"]
    assert on_terminal(TERM="dumb") == ""
    assert on_terminal(TERM="xterm", NO_COLOR="1") == ""


def test_a_question_is_asked_on_a_terminal_and_no_is_heard(site):
    site.ready("K1")
    for answer, code in ((b"n\n", 1), (b"y\n", 0)):
        ours, theirs = pty.openpty()
        process = site.process("keys", "revoke", "K1", stdin=theirs)
        os.write(ours, answer)
        said, told = process.communicate(timeout=20)
        os.close(theirs)
        os.close(ours)
        assert process.returncode == code
        assert "[y/N]" in told
        assert ("nothing was changed" in told) is (code == 1)
        assert ("deactivated" in said) is (code == 0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("keys", "list"), ""),
        (("keys", "show", "K1"), "done, but "),
        (("keys", "suspend", "K1", "K2"), "done, but "),
        (("--version",), "done, but "),
    ],
)
def test_a_full_output_device_is_told_and_not_as_something_to_be_tried_again(site, words, told):
    site.ready("K1", "K2")
    with open("/dev/full", "w", encoding="utf-8") as full:
        process = site.process(*words, stdout=full)
        assert process.wait(20) == 1
    assert process.stderr.read() == f"kmp-smsd: {told}standard output cannot be written: No space left on device\n"
    process.stderr.close()


@pytest.fixture(params=["/dev/full", "a closed pipe"])
def unheard(request):
    """A descriptor that takes nothing, and how a command ends whose output it is."""
    if request.param == "/dev/full":
        writing = os.open(request.param, os.O_WRONLY)
    else:
        reading, writing = os.pipe()
        os.close(reading)
    yield writing, 1 if request.param == "/dev/full" else 0
    os.close(writing)


def test_what_is_to_be_done_is_done_though_nobody_can_be_told(site, unheard):
    site.ready("K1", "K2")
    writing, code = unheard
    process = site.process("keys", "suspend", "K1", "K2", stdout=writing)
    told = process.communicate(timeout=20)[1]
    assert (process.returncode, bool(told)) == (code, bool(code))
    assert [row["state"] for row in site.rows("keys", "list")] == ["suspended", "suspended"]


def test_what_is_to_be_done_is_done_though_a_message_before_it_is_not_heard(site, unheard):
    site.ready("K1")
    writing, _ = unheard
    process = site.process("keys", "suspend", "NONE", "K1", stderr=writing)
    said = process.communicate(timeout=20)[0]
    assert (process.returncode, "suspended" in said) == (1, True)
    assert [row["state"] for row in site.rows("keys", "list")] == ["suspended"]


def test_each_line_of_why_a_command_failed_is_an_error_to_the_journal(site):
    faulty = site.config.read_text(encoding="utf-8").replace("[storage]", "[storage]\nfirst = 1\nsecond = 2")
    site.write("kmp-smsd.toml", faulty)
    with open(site.directory / "journal", "w+", encoding="utf-8") as journal:
        status = os.fstat(journal.fileno())
        env = {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        process = site.process("check-config", stderr=journal, env=env)
        assert (process.communicate(timeout=20)[0], process.returncode) == ("", 78)
        journal.seek(0)
        lines = journal.readlines()
    assert lines[-1] == "<3>2 faults, nothing was changed\n"
    assert [line.startswith(f"<3>{site.config}") for line in lines[:-1]] == [True, True]


def test_an_old_locale_shows_names_all_the_same(site):
    site.ready()
    keys = site.write("keys.csv", "key_id,key,serial\nK1,00112233445566778899aabbccddeeff,\u7535\u8868\n")
    site.ok("keys", "import", str(keys), "--vendor", "Acme", "--plaintext")
    env = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    process = site.process("keys", "list", env=env)
    said, told = process.communicate(timeout=20)
    assert (process.returncode, told) == (0, "")
    assert r"\u7535\u8868" in said


@pytest.mark.parametrize("words", [("--version",), ("keys", "list"), ("keys", "show", "NONE")])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_wants_nothing_at_all_gets_silence(site, words, unbuffered):
    site.ready("K1")
    reading, writing = os.pipe()
    os.close(reading)
    process = site.process(*words, stdout=writing, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    os.close(writing)
    told = process.communicate(timeout=20)[1]
    assert (process.returncode, "NONE" in told) == ((1, True) if "NONE" in words else (0, False))


PIPES_OF_OTHERS_BREAK = """
import errno, kmp_smsd.storage
def open_store(*_):
    raise BrokenPipeError(errno.EPIPE, "Broken pipe")
kmp_smsd.storage.open_store = open_store
"""


@pytest.mark.parametrize("heard", [True, False])
def test_a_pipe_that_is_not_standard_output_breaks_a_command_off_and_that_is_told(site, heard):
    site.ready()
    reading, writing = os.pipe()
    if not heard:
        os.close(reading)
    process = site.process("keys", "list", stdout=writing, env=site.customized(PIPES_OF_OTHERS_BREAK))
    os.close(writing)
    assert process.communicate(timeout=20)[1] == "kmp-smsd: Broken pipe: --debug before the command shows where\n"
    assert process.returncode == 75
    if heard:
        os.close(reading)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_bug(site, closed):
    site.ready("K1")

    def code(*words: str) -> int:
        return subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *site.words(*words)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        ).returncode

    assert [code("keys", "list"), code("keys", "show", "NONE"), code("keys", "revoke", "K1")] == [0, 1, 64]


def test_closed_streams_lead_nowhere_in_processes_that_we_begin_too() -> None:
    begin = (
        "import os; from kmp_smsd.cli import program as p; p._open_closed_streams(); os.execvp('ls', ['ls', '/dev/fd'])"
    )
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", sys.executable, "-c", begin],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split()[:3] == ["0", "1", "2"]


def test_messages_that_nobody_can_be_told_leave_the_exit_code(site):
    site.ready("K1")
    with open("/dev/full", "w", encoding="utf-8") as full:
        for words, code in ((("keys", "show", "NONE"), 1), (("keys",), 64), (("keys", "list"), 0)):
            process = site.process(*words, stdout=subprocess.DEVNULL, stderr=full)
            assert process.wait(20) == code


INTERRUPTED_WHILE_IMPORTED = """
import os, signal, sys
from kmp_smsd.cli import main

class Finder:
    def find_spec(self, name, *_):
        if name == "kmp_smsd.cli.program":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
main()
"""


def test_interrupt_while_the_program_is_imported_shows_no_traceback() -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED_WHILE_IMPORTED], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")


INTERRUPTED_AT_THE_END = """
import atexit, os, signal, sys
from kmp_smsd.cli import main

atexit.register(os.kill, os.getpid(), signal.SIGINT)
sys.argv[1:] = ["keys", "--no-such-option"]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
main()
"""


def test_interrupt_when_all_is_told_shows_no_traceback() -> None:
    """As the second of two."""
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED_AT_THE_END], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGINT
    assert ended.stderr == "kmp-smsd: No such option '--no-such-option' (see 'kmp-smsd keys --help')\n"


INTERRUPTED_WHILE_IT_IS_TOLD = """
import os, signal, sys
from kmp_smsd.cli import main

class StandardError:
    def write(self, text):
        written = sys.__stderr__.write(text)
        if text == "kmp-smsd: interrupted\\n":
            os.kill(os.getpid(), signal.SIGINT)
        return written

    def __getattr__(self, name):
        return getattr(sys.__stderr__, name)

class Finder:
    def find_spec(self, name, *_):
        if name == "kmp_smsd.config.load":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.stderr = StandardError()
sys.argv[1:] = ["keys", "list"]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
main()
"""


def test_interrupt_while_the_one_before_it_is_told_shows_no_traceback() -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED_WHILE_IT_IS_TOLD], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, b"\nkmp-smsd: interrupted\n")


INTERRUPT_OF_WHICH_AN_ERROR_IS_MADE = """
import os, signal, sys
from kmp_smsd.cli import main

class Finder:
    def find_spec(self, name, *_):
        if name == "kmp_smsd.config.load":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                raise RuntimeError("a class could not be made") from None

sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["keys", "list"]
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
main()
"""


def test_interrupt_of_which_a_library_makes_an_error_is_no_bug() -> None:
    """As pydantic does while its models are made."""
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPT_OF_WHICH_AN_ERROR_IS_MADE], capture_output=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (130, b"kmp-smsd: interrupted\n")
