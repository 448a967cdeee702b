"""Requests, a line each, and answers in JSON, as `bench_train_step --serve` has them: step, peak, compare PATH.

A training has step() and compare(path); it may have peak_bytes(), and answers to more requests in `requests`.
"""

import json
import sys
import time
import traceback


def resident_bytes(field):
    """VmRSS or, of all time, VmHWM of this process."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


def answer_to(training, before, request, argument):
    if request == "step":
        begin = time.perf_counter()
        loss = training.step()
        return {"seconds": time.perf_counter() - begin, "loss": loss}
    if request == "peak":
        has = getattr(training, "peak_bytes", None)
        return {"bytes": has() if has else resident_bytes("VmHWM") - before}
    if request == "compare":
        return training.compare(argument)
    if request in getattr(training, "requests", {}):
        return training.requests[request](argument)
    raise ValueError(f"unknown request '{request}'")


def serve(training, before):
    for line in sys.stdin:
        request, _, argument = line.strip().partition(" ")
        try:
            answer = answer_to(training, before, request, argument)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
