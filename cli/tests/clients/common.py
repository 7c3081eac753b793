"""What the scripts share: where servers are, and waiting for something to come true."""

import os
import time
import urllib.request

PLAIN = os.environ["PLAIN"]
TOOLS = os.environ["TOOLS"]
NARROW = os.environ["NARROW"]
POOLED = os.environ["POOLED"]
KEY = os.environ["KEY"]
MODEL = "rustdoc-tiny"


def metric(url, name):
    """A figure of a server: the sum of its values."""
    request = urllib.request.Request(url + "/metrics", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request) as answer:
        lines = answer.read().decode().splitlines()
    found = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
    assert found, f"{name} is not in\n" + "\n".join(lines)
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def wait_until(what, seconds=2.0):
    """Waits until something is true, and fails where it does not come true in time."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)


def raises(kind, call):
    """The error of a kind that a call ends with."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} came")
