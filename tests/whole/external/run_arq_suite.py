"""Run arq's own test suite, from its source distribution, against our worker.

    python tests/whole/external/run_arq_suite.py [-k EXPRESSION]

Client tests run unchanged; tests of the worker get ours through `arq_conftest.py`. Prints a table,
writes it to `arq_suite.md` beside this script, and ends with 1 where a test fails that has no entry
in `REASONS`, or where one passes that has.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.arq_env import NEWEST, arq_python  # noqa: E402
from tests.support.redis_server import RedisServer  # noqa: E402
from tests.whole.external.arq_suite_reasons import REASONS  # noqa: E402

NEEDS = ("pytest<8.3", "pytest-asyncio==0.23.6", "pytest-mock", "pytest-timeout", "msgpack",
         "dirty-equals<0.8", "pytz")  # fmt: skip
FILES = ("test_jobs.py", "test_main.py", "test_worker.py", "test_cron.py")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-k", dest="expression", default="", help="run only the tests that match")
    parser.add_argument("--show", action="store_true", help="show pytest's own output")
    chosen = parser.parse_args()
    python = arq_python(NEWEST)
    _run(python, "-m", "pip", "-q", "install", *NEEDS)
    with tempfile.TemporaryDirectory() as directory:
        suite = _unpacked(python, Path(directory))
        server = RedisServer(Path(directory))
        server.start()
        try:
            outcomes = _run_suite(python, suite, server.port, chosen.expression, chosen.show)
        finally:
            server.close()
    table = _table(outcomes)
    print(table)
    if not chosen.expression:
        (HERE / "arq_suite.md").write_text(table)
    wrong = [n for n, ok in outcomes.items() if ok is False and n not in REASONS]
    stale = [n for n, ok in outcomes.items() if ok is True and n in REASONS]
    for name in wrong:
        print(f"fails without a known reason: {name}", file=sys.stderr)
    for name in stale:
        print(f"passes, though a reason is given why it does not: {name}", file=sys.stderr)
    return 1 if wrong or stale else 0


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _unpacked(python: str, directory: Path) -> Path:
    """The suite's folder, with our `conftest.py` in place of arq's."""
    cache = ROOT / ".cache"
    archive = cache / f"arq-{NEWEST}.tar.gz"
    if not archive.exists():
        _run(python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:",
             "-d", str(cache), f"arq=={NEWEST}")  # fmt: skip
    with tarfile.open(archive) as packed:
        packed.extractall(directory, filter="data")
    suite = directory / f"arq-{NEWEST}" / "tests"
    (suite / "conftest.py").write_text((HERE / "arq_conftest.py").read_text())
    return suite


def _run_suite(
    python: str, suite: Path, port: int, expression: str, show: bool
) -> dict[str, bool | None]:
    """Each test's outcome: True passed, False failed, None skipped."""
    report = suite / "report.xml"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ARQ_SUITE_PORT": str(port)}
    subprocess.run(
        [python, "-m", "pytest", *FILES, "-q", "-p", "no:cacheprovider", "--timeout", "20",
         # Their fixtures and arq itself use names that redis-py 5 calls deprecated.
         "-W", "ignore:Call to deprecated:DeprecationWarning",
         # test_jobs leaves a client open, and whichever test runs next would be blamed for it.
         "-W", "ignore::pytest.PytestUnraisableExceptionWarning",
         "--asyncio-mode", "auto", f"--junitxml={report}", "-k", expression],
        cwd=suite,
        env=environment,
        stdout=None if show else subprocess.DEVNULL,
        timeout=900,
    )  # fmt: skip
    outcomes: dict[str, bool | None] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        file = str(case.get("classname")).rpartition(".")[2]
        failed = case.find("failure") is not None or case.find("error") is not None
        skipped = case.find("skipped") is not None
        outcomes[f"{file}::{case.get('name')}"] = None if skipped else not failed
    return outcomes


def _table(outcomes: dict[str, bool | None]) -> str:
    lines = [f"# arq {NEWEST}'s own tests against our worker", ""]
    lines += ["| file | passed | failed | skipped |", "| --- | --- | --- | --- |"]
    for file in dict.fromkeys(name.partition("::")[0] for name in outcomes):
        found = [ok for name, ok in outcomes.items() if name.startswith(f"{file}::")]
        lines.append(
            f"| {file} | {found.count(True)} | {found.count(False)} | {found.count(None)} |"
        )
    total = list(outcomes.values())
    lines.append(f"| all | {total.count(True)} | {total.count(False)} | {total.count(None)} |")
    failed = [name for name, ok in outcomes.items() if ok is False]
    if failed:
        lines += ["", "What does not pass, and why:", "", "| test | reason |", "| --- | --- |"]
        lines += [f"| {name} | {REASONS.get(name, 'unknown')} |" for name in failed]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
