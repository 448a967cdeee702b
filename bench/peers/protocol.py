"""Requests, a line each, and answers in JSON, as `bench_train_step --serve` has them: step, peak, compare PATH."""

import json
import sys
import time


def resident_bytes(field):
    """VmRSS or, of all time, VmHWM of this process."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


def serve(training, before):
    for line in sys.stdin:
        request, _, argument = line.strip().partition(" ")
        if request == "step":
            begin = time.perf_counter()
            loss = training.step()
            answer = {"seconds": time.perf_counter() - begin, "loss": loss}
        elif request == "peak":
            answer = {"bytes": resident_bytes("VmHWM") - before}
        elif request == "compare":
            answer = training.compare(argument)
        else:
            answer = {"error": f"unknown request '{request}'"}
        print(json.dumps(answer), flush=True)
