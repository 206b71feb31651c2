"""Run one command for as long as the process that asked for it lives; standard library only.

The parent holds the other end of standard input. When that end closes, because the parent said so or because it died
in any way (even by SIGKILL), the command's whole process group is ended. Nothing of a local run outlives it.

    python supervise.py SCRATCH_FOLDER COMMAND...      SCRATCH_FOLDER is removed at the end
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

GRACE_SECONDS = 3.0


def main() -> int:
    scratch, command = sys.argv[1], sys.argv[2:]
    for ignored in (
        signal.SIGINT,
        signal.SIGHUP,
    ):  # the parent's to handle; it closes the pipe when it is done
        signal.signal(ignored, signal.SIG_IGN)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    signal.signal(signal.SIGTERM, lambda *_: end(child))
    threading.Thread(target=wait_for_parent, args=(child,), daemon=True).start()
    status = child.wait()
    signal_group(child, signal.SIGKILL)  # workers that the command may have left behind
    shutil.rmtree(scratch, ignore_errors=True)
    return status


def wait_for_parent(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):
        pass
    end(child)


def end(child: subprocess.Popen[bytes]) -> None:
    signal_group(child, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    signal_group(child, signal.SIGKILL)


def signal_group(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # gone already
        os.killpg(child.pid, number)


if __name__ == "__main__":
    sys.exit(main())
