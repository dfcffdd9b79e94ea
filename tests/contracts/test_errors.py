"""What a user reads when something is wrong: expected, received, remedy."""

import math
from functools import partial

import pytest
import torch
from networks import batch, two_heads

from advreg import (
    Execution,
    J_IND_reg,
    J_IND_seg,
    Steepest,
    Threat,
    auto_attack,
    diagnose,
    dice,
    evaluate,
    linf,
    on,
    ood_attack,
    pgd_attack,
    point_error,
    weighted,
)
from advreg.attacks import ascend, square_attack, tradeoff
from advreg.objectives import SegPGD, SharpenedDice
from advreg.tasks import masks
from advreg.training import AdversarialLoss, Adversary

REG = on("contour", J_IND_reg)
SEG_PGD = SegPGD()


def attack(*, x=None, y=None, model=None, threat=None, objective=REG, **options):
    clean, target = batch(4)
    return pgd_attack(
        model or two_heads(),
        clean if x is None else x,
        target if y is None else y,
        objective=objective,
        threat=threat or Threat(linf, 0.1),
        **{"steps": 2, **options},
    )


def spoilt(value):
    x, _ = batch(4)
    x[2, 0, 3, 3] = value
    return x


def detached(x):
    return {"contour": two_heads()(x)["contour"].detach()}


CASES = {
    "integer input": (
        lambda: attack(x=torch.zeros(4, 1, 8, 8, dtype=torch.uint8)),
        TypeError,
        r"floating point.*got torch.uint8.*x.float\(\) / 255",
    ),
    "wrong range": (
        lambda: attack(x=spoilt(2.5)),
        ValueError,
        r"bounds \[0, 1\]; got \[.*, 2.5\], outside in example 2: undo the normalisation",
    ),
    "NaN input": (
        lambda: attack(x=spoilt(math.nan)),
        ValueError,
        "must be finite; got NaN or infinity in example 2",
    ),
    "empty batch": (
        lambda: attack(x=torch.zeros(0, 1, 8, 8)),
        ValueError,
        r"batch \(B, \*input\) of at least one",
    ),
    "missing head": (
        lambda: attack(objective=on("masks", J_IND_seg)),
        KeyError,
        r"the output has no head 'masks'; it is a dict with heads \['contour', 'mask'\]",
    ),
    "head of a bare tensor": (
        lambda: attack(model=lambda x: two_heads()(x)["mask"], objective=on("mask", J_IND_seg)),
        KeyError,
        "Tensor without heads: pass the function itself",
    ),
    "target built otherwise": (
        lambda: attack(y=batch(4)[1]["mask"], objective=on("mask", J_IND_seg)),
        KeyError,
        "the target has no head 'mask'.*build the target like the model's output",
    ),
    "target that would broadcast": (
        lambda: attack(y={"contour": torch.zeros(4, 1, 2)}),
        ValueError,
        r"same shape, nothing is broadcast; got \(4, 5, 2\) and \(4, 1, 2\)",
    ),
    "target of another kind": (
        lambda: attack(y={"contour": [0.0]}),
        TypeError,
        "must be tensors; got Tensor and list",
    ),
    "whole output to a plain objective": (
        lambda: attack(objective=J_IND_reg),
        TypeError,
        r"got dict and dict: for one head of several, wrap the function, on\('mask', f\)",
    ),
    "objective that returns a scalar": (
        lambda: attack(objective=lambda o, t: (o["contour"] - t["contour"]).square().mean()),
        TypeError,
        r"one number per example, a tensor of shape \(4,\); got shape \(\).*reduction='none'",
    ),
    "objective that returns no tensor": (
        lambda: attack(objective=lambda o, t: 1.0),
        TypeError,
        "one number per example.*got float",
    ),
    "objective that is not finite": (
        lambda: attack(objective=lambda o, t: REG(o, t) / 0),
        ValueError,
        "not finite for examples 0, 1, 2, 3, first on the clean input: look for",
    ),
    "gradient that is not finite": (
        lambda: attack(
            objective=lambda o, t: (o["contour"] - o["contour"].detach()).flatten(1).norm(dim=1) * math.inf,
            random_start=False,
        ),
        ValueError,
        "not finite",
    ),
    "detached head": (
        lambda: attack(model=detached),
        ValueError,
        r"does not depend on the input.*\.detach\(\)",
    ),
    "negative radius": (
        lambda: Threat(linf, -0.1),
        ValueError,
        r"radius must be zero or more.*got -0.1.*negate\(objective\)",
    ),
    "NaN radius": (lambda: Threat(linf, math.nan), ValueError, "radius must be zero or more"),
    "radius of the wrong length": (
        lambda: attack(threat=Threat(linf, torch.ones(3))),
        ValueError,
        "got 3 radii for 4 examples",
    ),
    "radius of two dimensions": (
        lambda: Threat(linf, torch.ones(3, 1)),
        ValueError,
        r"\(B,\); got shape \(3, 1\)",
    ),
    "bounds out of order": (
        lambda: Threat(linf, 0.1, bounds=(1.0, 0.0)),
        ValueError,
        "lower <= upper.*got 1 and 0",
    ),
    "mask of numbers": (
        lambda: Threat(linf, 0.1, mask=torch.ones(8, 8)),
        TypeError,
        r"mask must be bool.*got torch.float32: pass mask.bool\(\)",
    ),
    "mask that does not fit": (
        lambda: attack(threat=Threat(linf, 0.1, mask=torch.ones(7, 8, dtype=torch.bool))),
        ValueError,
        r"mask must broadcast against the inputs \(4, 1, 8, 8\); got shape \(7, 8\)",
    ),
    "bounds that do not fit": (
        lambda: attack(threat=Threat(linf, 0.1, bounds=(torch.zeros(3), 1.0))),
        ValueError,
        r"lower must broadcast.*got shape \(3,\).*\(C, 1, ..., 1\)",
    ),
    "relative step at an infinite radius": (
        lambda: attack(threat=Threat(linf, math.inf), rule=Steepest(0.2), random_start=False),
        ValueError,
        r"no length at an infinite radius.*Steepest\(0.01, relative=False\)",
    ),
    "random start at an infinite radius": (
        lambda: attack(threat=Threat(linf, math.inf), rule=Steepest(0.2, relative=False)),
        ValueError,
        "finite radius; got inf: pass random_start=False",
    ),
    "restarts that would repeat": (
        lambda: attack(restarts=3, random_start=False),
        ValueError,
        "3 restarts without a random start.*random_start=True",
    ),
    "no restarts": (lambda: attack(restarts=0), ValueError, "restarts 1 or more; got 2 and 0"),
    "keep": (lambda: attack(keep="worst"), ValueError, "'best' or 'last'; got 'worst'"),
    "start of another shape": (
        lambda: attack(start=torch.zeros(4, 8, 8)),
        ValueError,
        r"like x, torch.float32 of shape \(4, 1, 8, 8\); got torch.float32 of shape \(4, 8, 8\)",
    ),
    "index of the wrong length": (
        lambda: attack(index=torch.arange(3)),
        ValueError,
        "3 keys cannot serve a batch of 4",
    ),
    "a metric in place of a task": (
        lambda: auto_attack(two_heads(), *batch(4), heads={"mask": dice}, threat=Threat(linf, 0.1)),
        TypeError,
        r"the head 'mask', such as advreg.tasks.masks\(\); got dice: .*Task\(dice, worse='lower'\)",
    ),
    "a metric in place of a task, of a model that is its head": (
        lambda: auto_attack(two_heads(), *batch(4), heads={"": dice}, threat=Threat(linf, 0.1)),
        TypeError,
        r"a task for the head '', such as .*; got dice: .*worse='higher'",
    ),
    "a metric in place of tasks by head": (
        lambda: auto_attack(two_heads(), *batch(4), heads=dice, threat=Threat(linf, 0.1)),
        TypeError,
        r'a task for each head, by its key, \{"mask": masks\(\)\}, or \{"": masks\(\)\} .*; got function',
    ),
    "a task without its head": (
        lambda: auto_attack(two_heads(), *batch(4), heads=masks(), threat=Threat(linf, 0.1)),
        TypeError,
        "a task for each head, by its key, .*; got Task",
    ),
    "metrics in place of tasks in a trade-off": (
        lambda: tradeoff(
            two_heads(), *batch(4), heads={"mask": dice, "contour": point_error}, threat=Threat(linf, 0.1)
        ),
        TypeError,
        "a task for the head 'mask'.*got dice",
    ),
    "a head in place of an objective": (
        lambda: attack(objective="mask"),
        TypeError,
        r"must be a function \(output, target\) -> \(B,\); got 'mask' of type str: .*on\('mask', J_IND_seg\)",
    ),
    "a number in place of an objective": (
        lambda: attack(objective=1.0),
        TypeError,
        r"objective must be a function .*got 1.0 of type float$",
    ),
    "a head in place of an objective, out of distribution": (
        lambda: ood_attack(two_heads(), *[batch(4)[0]] * 2, objective="mask", threat=Threat(linf, 0.1)),
        TypeError,
        r"objective must be a function .*on\('mask', J_IND_seg\)",
    ),
    "a head in place of an objective, without a gradient": (
        lambda: square_attack(two_heads(), *batch(4), objective="mask", threat=Threat(linf, 0.1)),
        TypeError,
        r"objective must be a function .*on\('mask', J_IND_seg\)",
    ),
    "a head in place of an objective, in a diagnosis": (
        lambda: diagnose(two_heads(), *batch(4), objective="mask", threat=Threat(linf, 0.1)),
        TypeError,
        r"objective must be a function .*on\('mask', J_IND_seg\)",
    ),
    "a head in place of a judge": (
        lambda: attack(judge="mask"),
        TypeError,
        r"judge must be a function .*got 'mask' of type str",
    ),
    "a norm by its name": (
        lambda: Threat("linf", 0.1),
        TypeError,
        "norm must be advreg.linf, l2, l1, or an object with .*; got 'linf' of type str",
    ),
    "radius and norm exchanged": (lambda: Threat(0.1, linf), TypeError, "got 0.1 of type float"),
    "head and function exchanged": (
        lambda: on(J_IND_seg, "mask"),
        TypeError,
        "what on takes must be a function.*got 'mask'",
    ),
    "weight and function exchanged": (
        lambda: weighted((REG, 1.0)),
        TypeError,
        "what weighted takes must be a function.*got 1.0",
    ),
    "another precision": (
        lambda: Execution("int8"),
        ValueError,
        r"precision must be one of \('float32', 'bfloat16', 'float16'\); got 'int8'",
    ),
    "a module type that is no tuple": (
        lambda: Execution(checkpoint=torch.nn.Conv2d),
        TypeError,
        r"checkpoint must be a tuple of module types, \(Block,\); got <class",
    ),
    "an empty part": (
        lambda: Execution(micro_batch=0),
        ValueError,
        "micro_batch must be 1 or more, or None; got 0",
    ),
    "a function without a gradient": (
        lambda: next(ascend(lambda x: x.sum(1), torch.ones(1, 2), threat=Threat(linf, 0.1), rule=Steepest())),
        TypeError,
        r"returns \(value, gradient\); got Tensor: wrap .* value_and_gradient\(function\)",
    ),
    "a number in place of a threat": (
        lambda: attack(threat=0.1),
        TypeError,
        r"threat must be of type Threat; got 0.1: write Threat\(linf, 0.03\)",
    ),
    "a number in place of a threat, without a gradient": (
        lambda: square_attack(two_heads(), *batch(4), objective=REG, threat=0.1),
        TypeError,
        r"threat must be of type Threat; got 0.1",
    ),
    "a number in place of a threat, in training": (
        lambda: Adversary(REG, 0.1),
        TypeError,
        "threat must be of type Threat; got 0.1",
    ),
    "a rule's class": (
        lambda: attack(rule=Steepest),
        TypeError,
        r"rule must be an object that makes steps; got the class Steepest: write Steepest\(0.2\)",
    ),
    "a precision in place of an execution": (
        lambda: attack(execution="bfloat16"),
        TypeError,
        r"execution must be of type Execution; got 'bfloat16': write Execution\(precision=\"bfloat16\"\)",
    ),
    "a model that cannot be called": (
        lambda: attack(model={"weight": torch.ones(1)}),
        TypeError,
        "model must be a function of the inputs.*of type dict",
    ),
    "a model that returns nothing": (
        lambda: attack(model=lambda x: None),
        TypeError,
        "model returned None.*return them from its forward",
    ),
    "an array in place of a tensor": (
        lambda: attack(x=batch(4)[0].numpy()),
        TypeError,
        r"one tensor \(B, \*input\); got ndarray: pass torch.as_tensor\(x\)",
    ),
    "several inputs": (
        lambda: attack(x=(batch(4)[0], batch(4)[0])),
        TypeError,
        r"one tensor \(B, \*input\); got tuple: .* threat={0: Threat\(linf, 0.03\)}",
    ),
    "half a step": (
        lambda: attack(steps=2.5),
        TypeError,
        "steps must be a whole number; got 2.5 of type float",
    ),
    "yes in place of restarts": (
        lambda: attack(restarts=True),
        TypeError,
        "restarts must be a whole number; got True",
    ),
    "a start with NaN": (
        lambda: attack(start=spoilt(math.nan)),
        ValueError,
        "start must be finite where inputs may change; got NaN or infinity in example 2",
    ),
    "terms that are no pairs": (
        lambda: weighted(REG),
        TypeError,
        r"weighted takes pairs of a weight and a function; got .*: write weighted\(\(1.0, f\), \(0.5, g\)\)",
    ),
    "a weight that is NaN": (
        lambda: weighted((math.nan, REG)),
        ValueError,
        "weights of weighted must be finite; got nan",
    ),
    "a negative weight of a loss": (
        lambda: AdversarialLoss(REG, {"attack": (-0.5, Adversary(REG, Threat(linf, 0.1)))}),
        ValueError,
        "the weight of 'attack' must be zero or more, and finite; got -0.5",
    ),
    "a task that is not called": (
        lambda: auto_attack(two_heads(), *batch(4), heads={"mask": masks}, threat=Threat(linf, 0.1)),
        TypeError,
        r"a task for the head 'mask'; got the function masks: call it, masks\(\)",
    ),
    "a metric in place of metrics": (
        lambda: evaluate(two_heads(), [batch(4)], dice),
        TypeError,
        r"metrics must be \{head: \{name: function\}\}; got a function: write",
    ),
    "a function around an objective that changes": (
        lambda: attack(objective=lambda o, t: SEG_PGD(o["mask"], t["mask"])),
        TypeError,
        r"got <lambda>, a function around SegPGD, which changes as an attack goes on: .*on\('mask', SegPGD",
    ),
    "a partial around an objective that changes": (
        lambda: attack(objective=weighted((1.0, on("mask", partial(SharpenedDice(), target=None))))),
        TypeError,
        "a function around SharpenedDice, which changes as an attack goes on",
    ),
    "unpaired batches": (
        lambda: ood_attack(two_heads(), *batch(4)[:1], batch(3)[0], objective=REG, threat=Threat(linf, 0.1)),
        ValueError,
        "pair one to one, or one with all; got 4 and 3",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_message_says_what_was_expected_what_came_and_what_to_do(case):
    call, kind, message = CASES[case]
    with pytest.raises(kind, match=message):
        call()


def test_a_zero_gradient_everywhere_warns_and_names_the_examples():
    x, y = batch(4)
    y["select"] = torch.tensor([1.0, 0.0, 1.0, 0.0])
    with pytest.warns(
        UserWarning, match=r"gradient is zero at every step for examples 1, 3, .*random_start=True"
    ):
        result = attack(y=y, objective=lambda o, t: REG(o, t) * t["select"])
    assert torch.equal(result.x[1], x[1])
    y = {"contour": two_heads()(x)["contour"].detach()}  # the model's own output: flat at the centre
    with pytest.warns(UserWarning, match="examples 0, 1, 2, 3"):
        attack(y=y, random_start=False)
    assert (attack(y=y).gain > 0).all()
