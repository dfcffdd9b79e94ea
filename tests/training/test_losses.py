import gc
import math

import pytest
import torch
from networks import batch, notes, two_heads
from torch import distributed, nn

from advreg import J_IND_reg, J_IND_seg, Keys, Steepest, Threat, linf, on, pgd_attack, weighted
from advreg.training import (
    AdversarialLoss,
    Adversary,
    GaussianNoise,
    L_adv_r,
    L_adv_rs,
    L_adv_s,
    L_noise,
    L_rand,
    Noise,
    PureNoise,
)

REG, SEG = on("contour", J_IND_reg), on("mask", J_IND_seg)


TASK = weighted((0.1, REG), (1.0, SEG))


OPTIONS = {"threat": Threat(linf, 0.05), "rule": Steepest(0.02, relative=False), "steps": 3}


class Counting(nn.Module):
    """Two heads, as `heads=` asks for them; counts what was run, and in which mode."""

    def __init__(self):
        super().__init__()
        self.net = two_heads()

    @property
    def passes(self):
        return notes(self)

    def forward(self, x, heads=("contour", "mask")):
        notes(self).append((len(x), tuple(heads), self.training, x.requires_grad))
        code = self.net.encoder(x)
        answers = {}
        if "contour" in heads:
            answers["contour"] = self.net.contour(code.flatten(1)).unflatten(1, (5, 2))
        if "mask" in heads:
            answers["mask"] = self.net.mask(code)
        return answers


def mean(model, x, y):
    return TASK(model(x), y).mean()


@pytest.mark.parametrize(
    ("loss", "weights"),
    [
        (L_adv_rs(TASK, reg=REG, seg=SEG, **OPTIONS), {"reg": 0.25, "seg": 0.25}),
        (L_adv_r(TASK, reg=REG, **OPTIONS), {"reg": 0.5}),
        (L_adv_s(TASK, seg=SEG, **OPTIONS), {"seg": 0.5}),
    ],
    ids=["L_adv_rs", "L_adv_r", "L_adv_s"],
)
@pytest.mark.parametrize("together", [True, False])
def test_the_papers_losses_are_their_formulas(loss, weights, together):
    model, (x, y) = two_heads(), batch()
    loss = AdversarialLoss(loss.loss, loss.terms, loss.clean, together)
    total, parts = loss(model, x, y, seed=3)
    expected = {"clean": mean(model, x, y)}
    for number, name in enumerate(weights):
        keys = Keys(3, torch.arange(4)).fold_in(number)
        found = pgd_attack(
            model,
            x,
            y,
            objective={"reg": REG, "seg": SEG}[name],
            start=OPTIONS["threat"].sample(x, keys),
            random_start=False,
            keep="last",
            **OPTIONS,
        )
        expected[name] = mean(model, found.x, y)
    assert list(parts) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value.detach())
        assert not parts[name].requires_grad
    whole = 0.5 * expected["clean"] + sum(weights[name] * expected[name] for name in weights)
    torch.testing.assert_close(total, whole)
    for mine, theirs in zip(
        torch.autograd.grad(total, list(model.parameters())),
        torch.autograd.grad(whole, list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_the_attacks_share_one_training_pass_and_run_only_their_head():
    model, (x, y) = Counting().train(), batch()
    L_adv_rs(TASK, reg=REG, seg=SEG, **OPTIONS)(model, x, y)[0].backward()
    reg, seg = [(4, (head,), False, True) for head in ("contour", "mask")]
    assert model.passes == [reg] * 3 + [seg] * 3 + [(12, ("contour", "mask"), True, False)]


def test_parameters_are_frozen_while_attacking():
    model, (x, y) = two_heads(), batch()
    seen = []

    def objective(output, target):
        seen.extend(parameter.requires_grad for parameter in model.parameters())
        return SEG(output, target)

    total, _ = L_adv_s(TASK, seg=objective, **OPTIONS)(model, x, y)
    assert seen
    assert not any(seen)
    total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_dropout_rests_and_batch_statistics_move_once():
    x, y = torch.rand(8, 3), torch.rand(8, 2)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    model[1].eval()
    model[1].requires_grad_(requires_grad=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = AdversarialLoss(J_IND_reg, {"attack": (1.0, Adversary(J_IND_reg, OPTIONS["threat"]))})
    loss(model, x, y)
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.train()
    loss(model, x, y)
    assert model[1].num_batches_tracked == 1


@pytest.mark.parametrize("pure", [False, True])
def test_l_rand_weighs_both_halves_equally(pure):
    model, (x, y) = two_heads(), batch()
    threat = Threat(linf, 0.05)
    total, parts = L_rand(TASK, threat=threat, pure=pure)(model, x, y, seed=1)
    perturb = PureNoise(0.05) if pure else Noise(threat)
    noisy = perturb(model, x, y, Keys(1, torch.arange(4)).fold_in(0))
    torch.testing.assert_close(parts["rand"], mean(model, noisy, y).detach())
    torch.testing.assert_close(total, 0.5 * mean(model, x, y) + 0.5 * mean(model, noisy, y))


def test_l_noise_is_the_loss_under_gaussian_noise_and_runs_the_clean_inputs_only_where_they_count():
    model, (x, y) = two_heads(), batch()
    passes = []
    model.register_forward_hook(lambda module, given, output: passes.append(len(given[0])))
    noisy = GaussianNoise(0.25)(model, x, y, Keys(1, torch.arange(len(x))).fold_in(0))
    total, parts = L_noise(TASK, sigma=0.25)(model, x, y, seed=1)
    assert passes == [len(x)]
    torch.testing.assert_close(total, mean(model, noisy, y))
    assert list(parts) == ["noise"]
    total, parts = L_noise(TASK, sigma=0.25, clean=0.4)(model, x, y, seed=1)
    torch.testing.assert_close(total, 0.4 * mean(model, x, y) + 0.6 * mean(model, noisy, y))
    assert list(parts) == ["clean", "noise"]
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="clean must be a share"):
            L_noise(TASK, sigma=0.25, clean=wrong)


def test_gaussian_noise_has_its_deviation_is_not_clipped_and_belongs_to_the_example():
    x, keys = torch.full((400, 1, 8, 8), 0.9), Keys(3, torch.arange(400))
    noise = GaussianNoise(0.25)(None, x, None, keys) - x
    assert noise.std().item() == pytest.approx(0.25, rel=0.02)
    assert (x + noise).max() > 1.5
    part = GaussianNoise(0.25)(None, x[7:9], None, Keys(3, torch.arange(7, 9))) - x[7:9]
    assert torch.equal(part, noise[7:9])
    varied = (GaussianNoise(0.25, varied=True)(None, x, None, keys) - x).flatten(1).std(1)
    assert varied.min() < 0.02
    assert 0.22 < varied.max() < 0.3
    inputs = {"image": x, "age": torch.zeros(400, 1)}
    changed = GaussianNoise(0.25, noisy_input="image")(None, inputs, None, keys)
    assert torch.equal(changed["image"], x + noise)
    assert torch.equal(changed["age"], inputs["age"])
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="sigma must be the deviation of the noise"):
            GaussianNoise(wrong)


def test_a_users_own_term_counts_with_its_weight():
    model, (x, y) = two_heads(), batch()
    loss = AdversarialLoss(TASK, {"flipped": (0.3, lambda model, x, y, keys: x.flip(-1))}, clean=0.7)
    total, parts = loss(model, x, y)
    torch.testing.assert_close(total, 0.7 * mean(model, x, y) + 0.3 * mean(model, x.flip(-1), y))
    assert list(parts) == ["clean", "flipped"]


def test_a_seed_repeats_a_step_and_without_one_chance_moves_on():
    model, (x, y) = two_heads(), batch()
    loss = L_rand(TASK, threat=Threat(linf, 0.3))
    assert torch.equal(loss(model, x, y, seed=5)[0], loss(model, x, y, seed=5)[0])
    assert not torch.equal(loss(model, x, y)[0], loss(model, x, y)[0])
    half = [loss(model, x[part], {k: v[part] for k, v in y.items()}, seed=5, index=torch.arange(4)[part])[0]
            for part in (slice(0, 2), slice(2, 4))]  # fmt: skip
    torch.testing.assert_close(sum(half) / 2, loss(model, x, y, seed=5)[0])
    state = torch.get_rng_state()
    loss(model, x, y, seed=5)
    assert torch.equal(state, torch.get_rng_state())


def test_autocast_and_channels_last_hold_inside():
    seen = []
    x, y = torch.rand(2, 3, 8, 8), torch.ones(2, 1, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 1, 1)).to(memory_format=torch.channels_last)
    model[1].register_forward_hook(
        lambda _, inputs, output: seen.append(
            (output.dtype, inputs[0].is_contiguous(memory_format=torch.channels_last))
        )
    )
    loss = L_adv_s(J_IND_seg, seg=J_IND_seg, **OPTIONS)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = loss(model, x.to(memory_format=torch.channels_last), y)
    total.backward()
    assert seen == [(torch.bfloat16, True)] * 4
    assert model[0].weight.grad.dtype == torch.float32


def test_training_against_the_attack_makes_the_model_harder_to_attack():
    # One input tells y roughly; forty tell it well, but by so little that the adversary can drown them.
    g = torch.Generator().manual_seed(0)
    y = torch.rand(256, 1, generator=g)
    noise = torch.randn(256, 41, generator=g)
    x = torch.cat([y + 0.2 * noise[:, :1], 0.05 * y + 0.01 * noise[:, 1:]], dim=1)
    threat = Threat(linf, 0.05, bounds=None)

    def trained(loss):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Linear(41, 1)
        optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
        for step in range(150):
            optimiser.zero_grad()
            loss(net, x, y, seed=step)[0].backward()
            optimiser.step()
        return pgd_attack(net, x, y, objective=J_IND_reg, threat=threat, steps=20).value.mean()

    plain = trained(AdversarialLoss(J_IND_reg, {}, clean=1.0))
    robust = trained(L_adv_r(J_IND_reg, reg=J_IND_reg, threat=threat, rule=Steepest(0.5), steps=5))
    assert robust < 0.5 * plain


@pytest.mark.parametrize(
    ("loss", "error", "message"),
    [
        (
            AdversarialLoss(lambda output, target: output["mask"].mean(), {}),
            TypeError,
            "a loss must return one",
        ),
        (AdversarialLoss(TASK, {"own": (1.0, lambda model, x, y, keys: x[:1])}), TypeError, "term 'own'"),
        (AdversarialLoss(TASK, {"own": (1.0, lambda *_: "x")}), TypeError, "got str"),
    ],
)
def test_mistakes_are_named(loss, error, message):
    model, (x, y) = two_heads(), batch()
    with pytest.raises(error, match=message):
        loss(model, x, y)


def test_an_output_that_is_not_per_example_goes_to_clean_and_changed_inputs_alike():
    class Scalar(nn.Module):
        def forward(self, x):
            return {"mask": x, "temperature": torch.tensor(3.0)}

    x = torch.rand(2, 1, 4, 4)
    y = {"mask": x.round()}
    _, parts = L_rand(lambda output, target: SEG(output, target) * output["temperature"])(Scalar(), x, y)
    assert parts["clean"].item() == pytest.approx(3 * SEG({"mask": x}, y).mean().item())


def _process(rank, count, store, results):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    model, (x, y) = two_heads(), batch(8)
    part = slice(rank * 8 // count, (rank + 1) * 8 // count)
    wrapped = nn.parallel.DistributedDataParallel(model)
    synchronised = []

    def hook(state, bucket):
        synchronised.append(bucket.index())
        average = bucket.buffer() / count
        work = distributed.all_reduce(average, async_op=True).get_future()
        return work.then(lambda future: future.value()[0])

    wrapped.register_comm_hook(None, hook)
    optimiser = torch.optim.Adamax(wrapped.parameters(), lr=0.01)
    loss = L_adv_rs(TASK, reg=REG, seg=SEG, **OPTIONS)
    for step in range(3):
        total, _ = loss(
            wrapped, x[part], {k: v[part] for k, v in y.items()}, seed=step, index=torch.arange(8)[part]
        )
        assert len(synchronised) == step  # one bucket per step, and none for the attacks
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    if rank == 0:
        torch.save(model.state_dict(), results)
    distributed.barrier()
    del wrapped, total, loss, optimiser  # what holds the group keeps its threads, and they abort the exit
    gc.collect()
    distributed.destroy_process_group()


def test_two_processes_train_as_one_on_the_same_global_batch(tmp_path, processes):
    found = []
    for count in (1, 2):
        store, results = str(tmp_path / f"store{count}"), str(tmp_path / f"{count}.pt")
        processes(*(["_process", rank, count, store, results] for rank in range(count)))
        found.append(torch.load(results, weights_only=True))
    start = two_heads().state_dict()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-5, atol=1e-6)
        assert math.isfinite(value.sum())
        assert not torch.equal(value, start[name])
