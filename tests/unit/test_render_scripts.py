"""Scripts that must not run beside each other in a guest."""

from __future__ import annotations

import re
import subprocess

from labctl.render.scripts import alone

BUSY = """#!/bin/sh
[ ! -e busy ] || echo overlap >> said
touch busy
echo "$1" >> said
rm busy
"""


def test_scripts_made_alone_wait_for_each_other(tmp_path):
    script = tmp_path / "script"
    # The same line with a lock of the test's own.
    script.write_text(re.sub(r"/run/\S+", str(tmp_path / "lock"), alone(BUSY)))
    script.chmod(0o755)
    running = [subprocess.Popen([script, str(n)], cwd=tmp_path) for n in range(12)]
    assert [process.wait(10) for process in running] == [0] * 12
    assert sorted((tmp_path / "said").read_text().split(), key=int) == [str(n) for n in range(12)]


def test_a_script_made_alone_keeps_its_first_line_and_its_exit_code(tmp_path):
    script = tmp_path / "script"
    script.write_text(re.sub(r"/run/\S+", str(tmp_path / "lock"), alone("#!/bin/bash\nexit 7\n")))
    script.chmod(0o755)
    assert script.read_text().startswith("#!/bin/bash\n")
    assert subprocess.run([script], check=False).returncode == 7
