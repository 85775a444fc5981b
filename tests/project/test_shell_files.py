"""Manual pages and completion, as scripts/shell_files.py makes them from the parsers."""

import re
import shutil
import subprocess
from functools import cache

import pytest

from scripts import shell_files
from scripts.shell_files import PROGRAMS, actions_of, commands_of

# What the pages use of the macros of man(7).
MACROS = {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".nf", ".fi"}
# A command of each program that stands as deep as any.
NESTED = {
    "obt-agent": "obt-agent results drop",
    "obt-server": "obt-server campaigns verdicts",
    "obt-conformance": "obt-conformance server",
}
files = cache(shell_files.files)


def page(program: str) -> str:
    return files(program)[f"man/man1/{program}.1"]


def plain(text: str) -> str:
    """A page as it is read, roughly: without its escapes."""
    return re.sub(r"\\f[BIR]", "", text).replace("\\-", "-")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_page_has_every_command_and_every_option(program: str) -> None:
    text = plain(page(program))
    sections = dict(re.findall(r'^\.SS "([^"]+)"\n(.*?)(?=^\.S[SH])', text, flags=re.MULTILINE | re.DOTALL))
    named = dict(commands_of(PROGRAMS[program]()))
    assert set(sections) == set(named) - {program}
    assert NESTED[program] in sections
    missing = [
        (name, option)
        for name, command in named.items()
        for action in actions_of(command)
        for option in action.option_strings
        if option not in {"-h", "--help"} and option not in sections.get(name, text)
    ]
    assert missing == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_page_is_made_of_known_macros_in_ascii(program: str) -> None:
    text = page(program)
    assert text.isascii()
    assert {line.split()[0] for line in text.splitlines() if line.startswith((".", "'"))} <= MACROS
    # Marks of code, defaults of this machine, and help texts that were not filled in.
    assert not re.search(r"``|/root|/home|%\(|==SUPPRESS==", text)
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS", "SEE ALSO"):
        assert f".SH {section}\n" in text
    for number, line in enumerate(text.splitlines()):
        assert line, f"line {number} is empty"


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    "checker", [("groff", "-man", "-Tutf8", "-ww", "-z"), ("mandoc", "-Tlint", "-Wwarning")]
)
def test_a_page_has_no_warning(program: str, checker: tuple[str, ...]) -> None:
    if shutil.which(checker[0]) is None:
        pytest.skip(f"there is no {checker[0]} here")
    done = subprocess.run(checker, input=page(program), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_page_has_the_date_that_a_build_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    text = shell_files.manual_page(PROGRAMS["obt-conformance"]())
    assert " 2023-11-14 " in text.splitlines()[0]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("obt-agent mod", "models"),
        ("obt-agent bench --iter", "--iterations"),
        ("obt-agent results fl", "flush"),
        ("obt-server campaigns verd", "verdicts"),
        ("obt-server --tok", "--token-file"),
        ("obt-conformance ser", "server"),
    ],
)
def test_bash_completes_commands_and_options(line: str, offered: str) -> None:
    words = line.split()
    script = files(words[0])[f"bash-completion/completions/{words[0]}"]
    asked = f"""
COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMP_LINE='{line}'; COMP_POINT={len(line)}
"$(complete -p {words[0]} | sed 's/.*-F \\([^ ]*\\).*/\\1/')" {words[0]} {words[-1]} {words[-2]}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script + asked], capture_output=True, text=True, check=True)
    assert offered in done.stdout.split()
    assert done.stderr == ""


@pytest.mark.parametrize("program", PROGRAMS)
def test_zsh_reads_its_completion(program: str) -> None:
    script = files(program)[f"zsh/vendor-completions/_{program}"]
    assert script.startswith(f"#compdef {program}\n")
    if shutil.which("zsh"):
        subprocess.run(["zsh", "-n"], input=script, text=True, check=True)
