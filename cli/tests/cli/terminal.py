"""`gannet chat` on a terminal: python3 terminal.py GANNET TEMPLATE, whose replies are thoughts."""

import os
import pty
import select
import subprocess
import sys
import time

PATIENCE = 60


class Terminal:
    def __init__(self, program, *more, device="cpu"):
        self.master, child = pty.openpty()
        args = [program, "chat", "--device", device, *more]
        environment = {**os.environ, "TERM": "xterm"}
        self.process = subprocess.Popen(
            args, stdin=child, stdout=child, stderr=child, env=environment, start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0))
        os.close(child)
        self.text = ""

    def read(self):
        if not select.select([self.master], [], [], 0.05)[0]:
            return
        try:
            self.text += os.read(self.master, 65536).decode("utf-8", "replace")
        except OSError:
            pass  # The other end is closed.

    def until(self, word):
        """Waits for a word behind what was waited for before."""
        end = time.time() + PATIENCE
        while word not in self.text:
            assert time.time() < end, f"no {word!r} in {self.text!r}"
            self.read()
        before, _, self.text = self.text.partition(word)
        return before

    def type(self, text):
        os.write(self.master, text.encode())

    def end(self):
        end = time.time() + PATIENCE
        while self.process.poll() is None:
            assert time.time() < end, f"it never ends: {self.text!r}"
            self.read()
        return self.process.returncode


# Interpreted kernels need half a minute for such a reply, so it runs when Ctrl-C comes.
one = Terminal(sys.argv[1], "-n", "400", device="interp")
one.until("/help")
one.until("> ")
one.type("Ownership isx\x7f\r")
one.until("Ownership is")
one.until("\n")
while not one.text.strip():
    one.read()
one.type("\x03")
assert "error" not in one.until("interrupted]"), "Ctrl-C ends the reply"
one.until("> ")
one.type("/nonsense\r")
one.until("error: there is no /nonsense")
one.until("> ")
one.type("/stats\r")
assert "2 messages" in one.until("template"), "what there was is kept"
one.until("> ")
one.type("half a line\x03")
one.until("Ctrl-C again ends")
one.until("> ")
one.type("\x03")
assert one.end() == 0, "twice ends"

two = Terminal(sys.argv[1])
two.until("> ")
two.type("/set max-tokens 2\r")
two.until("> ")
two.type("\x1b[A\x1b[A\x1b[A\x1b[A\r")
two.until("Ownership is")
two.until("2 tokens")
two.until("> ")
two.type("\x04")
assert two.end() == 0, "Ctrl-D ends"

for more, begins in ((["--plain"], "[thoughts] "), ([], "\x1b[2m")):
    three = Terminal(sys.argv[1], "--chat-template", sys.argv[2], "-n", "3", *more)
    three.until("> ")
    three.type("fn main\r")
    three.until(begins)
    if not more:
        three.until("\x1b[0m")
    three.until("3 tokens")
    three.until("> ")
    three.type("\x04")
    assert three.end() == 0
