"""What a process runs under, asked of real processes: the settings are read when one begins."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
OURS = ("OMP_WAIT_POLICY", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")
GLIBC = pytest.mark.skipif("glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="of glibc")


def told(code, **environment):
    """What a fresh Python prints as JSON."""
    clean = {k: v for k, v in os.environ.items() if k not in OURS and "TUNABLES" not in k}
    program = f"import json, os, sys\n{code}"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=clean | environment,
        capture_output=True,
        text=True,
        cwd=PROJECT,
        check=True,
    )
    return json.loads(result.stdout)


# Page faults of ten texts of 64 MB, 16384 pages or 32 huge ones each, that are made and dropped
FAULTS = """
import json, resource
for i in range(11):
    if i == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 2**26
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))
"""


@GLIBC
def test_memory_is_kept_also_by_processes_that_this_one_starts():
    set_up = "from psc import machine; machine.set_up()"
    child = f"import subprocess; subprocess.run([sys.executable, '-c', {FAULTS!r}])"
    returned = told(FAULTS)
    assert returned > 300
    assert told(f"{set_up}\n{FAULTS}") < returned / 3
    assert told(f"{set_up}\n{child}") < returned / 3


def test_threads_sleep_where_they_wait_and_the_user_s_word_counts():
    ask = "from psc import machine; machine.set_up(); print(json.dumps(machine.in_force()))"
    assert told(ask)["OMP_WAIT_POLICY"] == "passive"
    theirs = {"OMP_WAIT_POLICY": "active", "MALLOC_MMAP_THRESHOLD_": "131072"}
    found = told(ask, **theirs, MALLOC_TRIM_THRESHOLD_="1000000")
    assert found == {"OMP_WAIT_POLICY": "active", "MALLOC_TRIM_THRESHOLD_": "1000000"}
    assert told(ask, OMP_WAIT_POLICY="active", GLIBC_TUNABLES="glibc.malloc.top_pad=0") == {
        "OMP_WAIT_POLICY": "active"
    }


def test_a_mistake_is_told_before_torch_is_loaded():
    found = told(
        "from psc import cli\n"
        "sys.argv = ['train.py', 'backbone.widht=4', 'budget=quick']\n"
        "try:\n    cli.run('train', print)\nexcept SystemExit as error:\n"
        "    print(json.dumps([error.code, 'torch' in sys.modules]))"
    )
    assert found == [1, False]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="of Linux")
def test_cores_are_those_that_the_process_may_use():
    bind = "import psc.machine; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])"
    assert told(f"{bind}; print(psc.machine.cores())") == 1
