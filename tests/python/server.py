"""Starts the real program for tests, in a process of its own, and reads where it listens."""

import contextlib
import os
import subprocess
import tempfile


@contextlib.contextmanager
def running():
    """A `phasegate dev` in a fresh folder and on a free port. Gives its address, such as "127.0.0.1:41234"."""
    with tempfile.TemporaryDirectory(prefix="phasegate-python-") as folder:
        command = [os.environ["PHASEGATE_TEST_BINARY"], "dev", "--port", "0", "--data", f"{folder}/data", "--log", "warn"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                for line in process.stdout:
                    _, found, address = line.partition("listens on http://")
                    if found:
                        yield address.strip()
                        return
                raise RuntimeError("phasegate dev ended before it listened")
            finally:
                process.kill()
