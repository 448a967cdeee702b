"""A process that takes steps on request, from the side of whoever asks. See protocol.py."""

import collections
import json
import os
import queue
import subprocess
import threading
import time


class Worker:
    """A process that takes steps on request.

    What it says on stderr goes to `log`, an open file, or where this process's goes.
    """

    def __init__(self, command, environment=None, folder=None, log=None):
        self.command = [str(part) for part in command]
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE if log else None,
            text=True, cwd=folder, env=dict(os.environ) if environment is None else environment,
        )
        self.lines = queue.Queue()
        self.last_words = collections.deque(maxlen=5)
        self.threads = [threading.Thread(target=self._read_answers, daemon=True)]
        if log:
            self.threads.append(threading.Thread(target=self._read_errors, args=(log,), daemon=True))
        for thread in self.threads:
            thread.start()

    def _read_answers(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _read_errors(self, log):
        for line in self.process.stderr:
            self.last_words.append(line.strip())
            log.write(line)
            log.flush()

    def ask(self, request, seconds=None):
        """The answer. Raises RuntimeError for an error, TimeoutError where none comes in time; then the process is ended."""
        begin = time.monotonic()
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the end of its output says so, too
        while True:
            try:
                left = None if seconds is None else max(0.0, begin + seconds - time.monotonic())
                line = self.lines.get(timeout=left)
            except queue.Empty:
                self.kill()
                raise TimeoutError(f"no answer to '{request.split()[0]}' within {seconds:.0f} s") from None
            if line is None:
                status = self.process.wait()
                for thread in self.threads:
                    thread.join(1)
                raise RuntimeError(f"{' '.join(self.command[:4])} ended with {status}: {' | '.join(self.last_words)}")
            if not line.startswith("{"):
                continue  # what a library has printed
            answer = json.loads(line)
            if "error" in answer:
                raise RuntimeError(answer["error"])
            return answer

    def kill(self):
        self.process.kill()
        self.close()

    def close(self):
        try:
            self.process.stdin.close()
            self.process.wait(60)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        for thread in self.threads:
            thread.join(1)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()


def take_in_turn(ours, theirs, rounds, deadline=None, limit=None):
    """The answers of both to `step`, in pairs, after one each to warm up; fewer than `rounds` where time is out, but two."""
    for worker in (ours, theirs):
        worker.ask("step", limit)
    pairs = []
    while len(pairs) < rounds:
        if deadline is not None and len(pairs) >= 2 and time.monotonic() > deadline:
            break
        pairs.append((ours.ask("step", limit), theirs.ask("step", limit)))
    return pairs
