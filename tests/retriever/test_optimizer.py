import copy

import pytest
import torch
from torch import nn

from tiger.retriever.optimizer import MuonAdamW, orthogonalize


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 24), nn.Linear(24, 16, bias=False), nn.Linear(16, 16), nn.Linear(16, 1))


def make_groups(model, muon=True):
    matrices = [p for p in model.parameters() if p.ndim == 2]
    return [
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        {"params": matrices, "lr": 0.01, "muon": muon},
    ]


def train(model, optimizer, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        loss = model(torch.randn(8, 16, generator=generator)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def test_orthogonalize():
    matrices = torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrices).float())
    assert values.min() > 0.6 and values.max() < 1.3
    assert orthogonalize(torch.zeros(1, 4, 6)).abs().max() == 0
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    assert (orthogonalize(matrices).float() * (left @ right)).sum((1, 2)).min() > 0.8 * 8  # the same directions


def test_muon_agrees_with_torch():
    shapes = ((16, 24), (24, 16), (16, 24), (16, 16))
    start = [torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes]
    ours, theirs = ([nn.Parameter(weight.clone()) for weight in start] for _ in range(2))
    options = {"lr": 0.01, "weight_decay": 0.1}
    optimizers = (
        MuonAdamW([{"params": ours, "muon": True}], **options),
        torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **options),
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b, weight in zip(ours, theirs, start):
        assert (a - b).norm() < 0.03 * (a - weight).norm()


def test_other_groups_are_adamw():
    ours, theirs = make_model(), make_model()
    train(ours, MuonAdamW(make_groups(ours, muon=False), lr=1e-2), 5)
    train(theirs, torch.optim.AdamW(make_groups(theirs, muon=False), lr=1e-2), 5)
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a, b)


def test_goes_on_after_reloading():
    whole = make_model()
    train(whole, (optimizer := MuonAdamW(make_groups(whole), lr=1e-2)), 3)
    half = copy.deepcopy(whole)
    resumed = MuonAdamW(make_groups(half), lr=1e-2)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(whole, optimizer, 3, seed=1)
    train(half, resumed, 3, seed=1)
    for a, b in zip(whole.parameters(), half.parameters()):
        assert torch.equal(a, b)


def test_learns():
    model = make_model()
    optimizer = MuonAdamW(make_groups(model), lr=1e-2)
    first = train(model, optimizer, 1)
    assert train(model, optimizer, 100) < 0.1 * first


def test_refuses_vectors():
    with pytest.raises(ValueError, match="vectors"):
        MuonAdamW([{"params": [nn.Parameter(torch.zeros(3))], "muon": True}])


def scaled_steps(overflow_at=None, unscale=False, steps=4):
    """Weights after steps under a GradScaler, of which one may overflow, and the optimizer."""
    model = make_model()
    optimizer = MuonAdamW(make_groups(model), lr=1e-2, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=100)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        if step == overflow_at:
            scaler.scale(model(torch.ones(8, 16)).square().mean()).backward()
            model[1].weight.grad[0, 0] = torch.inf
        else:
            scaler.scale(model(torch.randn(8, 16, generator=generator)).square().mean()).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return [weight.detach().clone() for weight in model.parameters()], scaler.get_scale()


@pytest.mark.parametrize("unscale", [False, True])
def test_an_overflow_in_fp16_changes_nothing_but_the_scale(unscale):
    """With ``unscale`` as where gradients are clipped: a fused optimizer is called all the same."""
    whole, scale = scaled_steps(unscale=unscale, steps=3)
    skipped, lower = scaled_steps(overflow_at=1, unscale=unscale, steps=4)
    assert scale == 1024 and lower == 512
    assert all(torch.isfinite(weight).all() for weight in skipped)
    for a, b in zip(whole, skipped):
        torch.testing.assert_close(a, b)


def test_scaled_gradients_step_as_others_do():
    plain = make_model()
    train(plain, MuonAdamW(make_groups(plain), lr=1e-2, fused=True), 3)
    for a, b in zip(plain.parameters(), scaled_steps(steps=3)[0]):
        torch.testing.assert_close(a.detach(), b)
