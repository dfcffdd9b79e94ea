"""An attack that is interrupted anywhere, or shares its model with another thread, leaves all as it was."""

import contextlib
import gc
import signal
import sys
import threading
import time
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from networks import notes
from torch import nn

import advreg
from advreg import Execution, J_IND_reg, Steepest, Threat, auto_attack, linf, on, pgd_attack
from advreg.attacks import square_attack
from advreg.execution import evaluating, frozen, running
from advreg.tasks import Task
from advreg.training import AdversarialLoss, Adversary

THREAT = Threat(linf, 0.1)
OPTIONS = {"threat": THREAT, "steps": 3, "rule": Steepest(0.4)}
# The networks here write notes at every call, so that they cannot be cut; that is said, and is no matter.
pytestmark = pytest.mark.filterwarnings("ignore:only .* will be read")
LIBRARY = str(Path(advreg.__file__).parent)
TORCH = Path(torch.__file__).parent


class Net(nn.Module):
    """Two heads; a buffer, a list and an attribute are written at every call."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh())
        self.head, self.calls, self.seen = nn.Linear(8, 6), 0, []
        self.register_buffer("total", torch.zeros(2))

    def forward(self, x):
        self.calls += 1
        self.seen.append(len(x))
        self.total += 1
        code = self.head(self.inner(x))
        return {"a": code[:, :3], "b": code[:, 3:]}


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Net().eval()
        made.head.train()
        made.head.bias.requires_grad_(False)
        made.head.weight.grad = torch.randn_like(made.head.weight)
    return made


def data():
    g = torch.Generator().manual_seed(1)
    x = torch.rand(5, 6, generator=g)
    return x, {"a": torch.rand(5, 3, generator=g), "b": torch.rand(5, 3, generator=g)}


def snapshot(model):
    return {
        "parameters": [
            (name, id(p), p.tolist(), p.dtype, p.requires_grad) for name, p in model.named_parameters()
        ],
        "gradients": [None if p.grad is None else (id(p.grad), p.grad.tolist()) for p in model.parameters()],
        "buffers": [(name, id(b), b.tolist()) for name, b in model.named_buffers()],
        "modes": [module.training for module in model.modules()],
        "attributes": (model.calls, model.seen.copy(), [sorted(vars(module)) for module in model.modules()]),
        "hooks": [len(module._forward_pre_hooks) for module in model.modules()],
        "random": torch.get_rng_state().tolist(),
        "gradients are on": torch.is_grad_enabled(),
    }


def assert_untouched(model, before, place=""):
    after = snapshot(model)
    for what, value in before.items():
        assert value == after[what], f"{what} {place}"


def attack(model, x, y, checkpoint=(nn.BatchNorm1d,)):
    execution = Execution("bfloat16", micro_batch=3, checkpoint=checkpoint)
    pgd_attack(model, x, y, objective=on("a", J_IND_reg), execution=execution, **OPTIONS)


def noisy_attack(model, x, y):
    def objective(output, target):
        torch.rand(3)
        return J_IND_reg(output["a"], target["a"])

    pgd_attack(model, x, y, objective=objective, execution=Execution(noisy=True), **OPTIONS)


def search(model, x, y):
    square_attack(model, x, y, objective=on("b", J_IND_reg), threat=THREAT, queries=4)


def ensemble(model, x, y):
    task = Task(J_IND_reg, "higher")
    auto_attack(model, x, y, heads={"a": task, "b": task}, threat=THREAT, budget=4)


def training(model, x, y):
    terms = {"it": (0.5, Adversary(on("a", J_IND_reg), THREAT, steps=2))}
    with evaluating(model):  # a training pass would move the statistics of BatchNorm
        AdversarialLoss(on("a", J_IND_reg), terms)(_still(model), x, y, seed=0)


def _still(model):
    """The model, whose training pass runs inside a context that puts back what it writes."""

    def run(x):
        with running(model, None, x) as network:
            return network.exact(x)

    return run


ATTACKS = {
    "pgd_attack": attack,
    "noisy": noisy_attack,
    "square_attack": search,
    "auto_attack": ensemble,
    "training": training,
}


def lines_of(run):
    """How many lines of the library, and of what enters and leaves its contexts, a call runs through."""
    found = [0]

    def count(_):
        found[0] += 1

    with traced(count):
        run()
    return found[0]


@contextlib.contextmanager
def traced(each_line):
    """Call a function at each line."""

    def local(frame, event, _):
        if event == "line":
            each_line(frame)
        return local

    def enter(frame, *_):
        name = frame.f_code.co_filename
        return local if name.startswith(LIBRARY) or name == contextlib.__file__ else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)


def interrupted_at(line, run):
    """Run something, and interrupt it at this line; where that was, or nothing."""
    left, place = [line], ""

    def one_less(frame):
        nonlocal place
        left[0] -= 1
        if left[0] == 0:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            raise KeyboardInterrupt

    unraisable, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with traced(one_less):
            run()
    except KeyboardInterrupt:
        return place
    finally:
        sys.unraisablehook = unraisable
    return ""


@pytest.mark.filterwarnings("ignore:the model or the objective drew")
@pytest.mark.parametrize("name", ATTACKS)
def test_an_interrupt_at_any_line_leaves_no_trace(name):
    model, (x, y) = net(), data()
    before = snapshot(model)
    ATTACKS[name](model, x, y)
    total = lines_of(lambda: ATTACKS[name](model, x, y))
    assert_untouched(model, before)
    g = torch.Generator().manual_seed(0)
    lines = torch.randint(1, total, (20,), generator=g).tolist()
    # Entering and leaving, where flags, weights and attributes are swapped, closely.
    for line in [*lines, *range(1, 90, 5), *range(total - 150, total, 5)]:
        place = interrupted_at(line, lambda: ATTACKS[name](model, x, y))
        assert place
        assert_untouched(model, before, place)
        assert not other_thread(lambda: entered(model), 3), f"a lock is left behind at {place}"


def entered(model):
    with frozen(model):
        pass


def within_torch(frame):
    """Whether a frame is of torch's own book-keeping, which an interrupt can cut in two.

    An interrupt inside `saved_tensors_hooks.__enter__`, say, leaves the hook on for the whole process, and
    nothing public takes it off.
    """
    while frame is not None and frame.f_code.co_filename == contextlib.__file__:
        frame = frame.f_back
    file = Path(frame.f_code.co_filename)
    return file.is_relative_to(TORCH) and not file.is_relative_to(TORCH / "nn")


def other_thread(run, seconds=10):
    """Whether a thread that runs something is still at it after a while."""
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return thread.is_alive()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_an_interrupt_at_any_moment_leaves_no_trace():
    """As a person at the keyboard makes it: 200 moments within two runs, or soon after.

    Without checkpoints: torch's own, cut off in its middle, leaves hooks on that nothing public takes off.
    """
    model, (x, y), plain = net(), data(), partial(attack, checkpoint=())
    before = snapshot(model)
    lasts = min(seconds(lambda: plain(model, x, y)) for _ in range(3))  # on a busy machine one may take long
    armed, met = [False], 0

    def handler(_, frame):
        if armed[0] and within_torch(frame):
            signal.setitimer(signal.ITIMER_REAL, 1e-5)
        elif armed[0]:
            armed[0] = False
            raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, handler)
    unraisable, sys.unraisablehook = sys.unraisablehook, lambda _: None
    g = torch.Generator().manual_seed(0)
    try:
        for moment in torch.rand(200, generator=g).tolist():
            try:
                armed[0] = True
                signal.setitimer(signal.ITIMER_REAL, 1e-4 + moment * lasts)
                plain(model, x, y)
                armed[0] = False
            except KeyboardInterrupt:
                met += 1
            finally:
                armed[0] = False
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert_untouched(model, before)
    finally:
        signal.signal(signal.SIGALRM, old)
        sys.unraisablehook = unraisable
    assert met > 50
    assert not other_thread(lambda: plain(model, x, y))
    assert_untouched(model, before)


def seconds(run):
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


PLACES = ["model", "objective", "judge", "stop", "rule"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("call", [1, 3, 6])
def test_an_interrupt_inside_what_the_caller_gave(place, call):
    model, (x, y), calls = net(), data(), []

    def interrupting(function, at):
        def run(*arguments, **more):
            calls.append(at)
            if calls.count(place) == call and at == place:
                raise KeyboardInterrupt
            return function(*arguments, **more)

        return run

    class Rule(Steepest):
        """A rule of the caller's own."""

        def step(self, *arguments, **more):
            return interrupting(super().step, "rule")(*arguments, **more)

    before = snapshot(model)
    error = on("a", J_IND_reg)
    hook = model.inner.register_forward_hook(interrupting(lambda *_: None, "model"))
    before["hooks"] = snapshot(model)["hooks"]
    with pytest.raises(KeyboardInterrupt):
        pgd_attack(
            model,
            x,
            y,
            objective=interrupting(error, "objective"),
            judge=interrupting(error, "judge"),
            stop=interrupting(lambda output, _: output["a"][:, 0] > 99, "stop"),
            threat=THREAT,
            steps=8,
            rule=Rule(0.4),
        )
    hook.remove()
    assert_untouched(model, before)


class Guarded(nn.Module):
    """Its mode cannot be set without an interrupt, once."""

    def __init__(self, at):
        super().__init__()
        self.layer = nn.Linear(6, 3)
        notes(self).append(at)

    def __setattr__(self, name, value):
        if name == "training" and notes(self):
            notes(self)[0] -= 1
            if notes(self)[0] == 0:
                raise KeyboardInterrupt
        super().__setattr__(name, value)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("at", [1, 2])
def test_an_interrupt_during_the_clean_up_is_not_lost_and_loses_nothing(at):
    model, (x, y) = Guarded(99).eval(), data()
    notes(model)[0] = at
    flags = [parameter.requires_grad for parameter in model.parameters()]
    weights = [(id(parameter), parameter.tolist()) for parameter in model.parameters()]
    try:
        pgd_attack(model, x, y["a"], objective=J_IND_reg, **OPTIONS)
        met = False
    except KeyboardInterrupt:
        met = True
    assert met == (notes(model)[0] <= 0)
    assert met or at > 1
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert [(id(parameter), parameter.tolist()) for parameter in model.parameters()] == weights
    assert not model.training


# Threads


def together(*runs):
    """Run functions at once, each in a thread; their results."""
    results, errors = [None] * len(runs), []

    def kept(at, run):
        try:
            results[at] = run()
        except BaseException as error:  # noqa: BLE001 - a test looks at it
            errors.append(error)

    threads = [threading.Thread(target=kept, args=(at, run), daemon=True) for at, run in enumerate(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "two threads wait for each other"
    assert not errors, errors
    return results


WAYS = {
    "float32": {"steps": 25},
    "bfloat16": {"steps": 10, "execution": Execution("bfloat16")},
    "in parts": {"steps": 15, "execution": Execution(micro_batch=2)},
    "not pruned": {"steps": 20, "execution": Execution(prune=False)},
}


def itself(net):
    return net


def a_function(net):
    return lambda x: dict(net(x))


@pytest.mark.parametrize("wrap", [itself, a_function])
def test_threads_that_attack_one_model_find_what_one_finds(wrap):
    model, (x, y) = net(), data()
    before = snapshot(model)

    def run(head, way):
        options = {"threat": THREAT, "objective": on(head, J_IND_reg), "rule": Steepest(0.2), **WAYS[way]}
        return pgd_attack(wrap(model), x, y, **options)

    jobs = [(head, way) for way in WAYS for head in "ab"]
    alone = [run(*job) for job in jobs]
    found = together(*(lambda job=job: run(*job) for job in jobs))
    for one, other in zip(alone, found, strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.value, other.value)
    assert_untouched(model, before)


def test_threads_that_attack_overlapping_models():
    """One attacks the whole, the other a part of it."""
    model, (x, y) = net(), data()
    part = nn.Sequential(model.inner, model.head)
    before = snapshot(model)
    whole = lambda: pgd_attack(model, x, y, objective=on("a", J_IND_reg), **OPTIONS)  # noqa: E731 - as short as it is
    piece = lambda: pgd_attack(  # noqa: E731 - as short as it is
        part, x, y["a"].repeat(1, 2), objective=J_IND_reg, execution=Execution("bfloat16"), **OPTIONS
    )
    alone = [whole().value, piece().value]
    for _ in range(5):
        found = together(whole, piece)
        assert all(torch.equal(one, other.value) for one, other in zip(alone, found, strict=True))
    assert_untouched(model, before)


@pytest.mark.filterwarnings("ignore:the model or the objective drew")
def test_an_attack_in_another_thread_does_not_rewind_the_main_thread():
    model, other, (x, y) = net(), nn.Linear(6, 3), data()
    stop, drawn = threading.Event(), []

    def background():
        try:
            for _ in range(15):
                pgd_attack(other, x, y["a"], objective=J_IND_reg, **OPTIONS)
                noisy_attack(model, x, y)
        finally:
            stop.set()

    thread = threading.Thread(target=background, daemon=True)
    thread.start()
    while not stop.is_set():
        drawn.append(torch.rand(1, dtype=torch.float64).item())
        time.sleep(1e-4)
    thread.join(60)
    assert not thread.is_alive()
    assert len(drawn) > 10
    assert len(set(drawn)) == len(drawn)


def test_nothing_is_kept_alive():
    """Locks and states know models weakly."""
    model, (x, y) = net(), data()
    told = weakref.ref(model)
    attack(model, x, y)
    del model
    gc.collect()
    assert told() is None
