"""Functions of tests' files, each run in a process of its own; torch is imported once for all."""

import importlib
import json
import os
import pathlib
import runpy
import subprocess
import sys
import traceback
from contextlib import contextmanager

TESTS = pathlib.Path(__file__).parents[1]


def serve():
    """Fork a process for each call asked for, and answer with how they ended."""
    for name in ("advreg.evaluation", "advreg.training", "torch.distributed", "torch._dynamo"):
        importlib.import_module(name)  # the last: gradients and optimisers of torch import it late
    for line in sys.stdin:
        path, calls = json.loads(line)
        processes = []
        for function, *arguments in calls:
            process = os.fork()
            if process == 0:
                code = 1
                try:
                    runpy.run_path(path, run_name="served")[function](*arguments)
                    code = 0
                except Exception:  # noqa: BLE001 - it is printed, and the parent sees the code
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            processes.append(process)
        ends = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        sys.stdout.write(json.dumps(ends) + "\n")
        sys.stdout.flush()


@contextmanager
def forked(errors):
    """Gives what runs calls `(name, *arguments)` of functions of a file all at once, and how they ended."""
    inherited = os.environ.get("PYTHONPATH")
    paths = [str(TESTS), *([inherited] if inherited else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", "from networks.forked import serve; serve()"]
    with (
        errors.open("w") as file,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
        ) as server,
    ):

        def run(path, *calls):
            print(json.dumps([str(path), calls]), file=server.stdin, flush=True)
            answer = server.stdout.readline()
            assert answer, errors.read_text()
            codes = json.loads(answer)
            assert 1 not in codes, errors.read_text()
            return codes

        yield run
        server.stdin.close()
