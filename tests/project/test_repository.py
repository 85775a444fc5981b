"""Workflows, templates and hooks: valid by their schemas, and calling what exists."""

import re
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from scripts.ci import PHASES
from scripts.release_check import problems
from tests.project.paths import ROOT, run

pytestmark = pytest.mark.lint

SCHEMAS = {
    "vendor.github-workflows": ".github/workflows/*.yml",
    "vendor.github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "vendor.github-issue-forms": ".github/ISSUE_TEMPLATE/[!c]*.yml",
    "vendor.dependabot": ".github/dependabot.yml",
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_each_file_for_the_code_host_is_valid(schema: str) -> None:
    files = sorted(ROOT.glob(SCHEMAS[schema]))
    assert files
    checked = run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *files, cwd=ROOT)
    assert checked.returncode == 0, checked.stdout


def steps() -> list[str]:
    """The commands of all steps of all workflows, with each value of a matrix put in."""
    found = []
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            matrix = job.get("strategy", {}).get("matrix", {})
            targets = [entry["target"] for entry in matrix.get("include", ())] or [""]
            for step in job["steps"]:
                found += [step.get("run", "").replace("${{ matrix.target }}", target) for target in targets]
    return found


def test_workflows_and_ci_call_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    commands = [*steps(), *(step for phase in PHASES for step in phase)]
    called = {target for line in commands for target in re.findall(r"\bmake ([a-z-]+)", line)}
    assert called >= {"lint", "test", "test-faults", "coverage", "test-wheel", "test-lowest", "test-latest"}
    assert called - targets - {"python"} == set(), "make as a package to install, or a target"


def test_actions_are_named_by_their_commits_with_their_releases() -> None:
    """A tag can be moved, and so can a branch."""
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        used = re.findall(r"uses: (.*)", path.read_text())
        assert used
        assert [
            line for line in used if not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)
        ] == [], path.name


def test_nobody_else_can_make_a_workflow_do_something() -> None:
    """Expressions of strangers in commands, permissions and credentials that reach too far."""
    zizmor = Path(sysconfig.get_path("scripts")) / "zizmor"
    audited = run(zizmor, "--offline", "--no-progress", ".github/workflows", cwd=ROOT)
    assert audited.returncode == 0, audited.stdout


def test_only_the_jobs_that_publish_may_ask_for_an_identity() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
    assert workflow["permissions"] == {}
    jobs = workflow["jobs"].items()
    assert {name for name, job in jobs if "id-token" in job["permissions"]} == {"index", "release"}
    assert {name for name, job in jobs if job.get("environment") == "release"} == {"index", "release"}


def test_workflows_test_every_python_of_the_classifiers() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    promised = re.findall(r"Programming Language :: Python :: (3\.\d+)", text)
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == promised


def test_hooks_call_tools_of_the_environment() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    programs = [hook["entry"].split()[0] for hook in repository["hooks"]]
    assert {Path(program).parent for program in programs} == {Path(".venv/bin")}
    beside_python = Path(sys.executable).parent
    assert [program for program in programs if not (beside_python / Path(program).name).exists()] == []


PYPROJECT = '[project]\nurls = { Source = "https://code.obt.test/obt-agent" }\n'
CHANGELOG = "## [Unreleased]\n\n## [1.2.0] - 2030-01-31\n"
MAINTAINER = "Maintainer: somebody <packages@obt.test>\n"


def test_a_release_that_is_ready_is_let_through() -> None:
    assert problems("v1.2.0", "1.2.0", PYPROJECT, CHANGELOG, MAINTAINER) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tag": "v1.3.0"}, "the tag is 'v1.3.0'"),
        ({"changelog": "## [Unreleased]\n"}, "CHANGELOG.md has no section"),
        ({"pyproject": PYPROJECT.replace(".test/", ".example/")}, "Source is a placeholder"),
        ({"maintainer": MAINTAINER.replace(".test>", ".example>")}, "debian/maintainer: the address is a"),
    ],
)
def test_a_release_is_refused_with_the_reason(change: dict[str, str], reason: str) -> None:
    ready = {"tag": "v1.2.0", "pyproject": PYPROJECT, "changelog": CHANGELOG, "maintainer": MAINTAINER}
    (problem,) = problems(version="1.2.0", **{**ready, **change})
    assert reason in problem
