import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tiger.embeddings.base import load_embeddings
from tiger.quantizers.auto import load_quantizer
from tiger.quantizers.kmeans import nearest_codes
from tiger.quantizers.report import quantization_report
from tiger.quantizers.rqvae import RQVAE, RQVAEConfig, RQVAETraining
from tiger.utils.errors import DataError

DATA = Path(os.environ.get("TIGER_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
SMALL = {"hidden_sizes": (32,), "latent_dim": 8, "codebook_size": 16, "steps": 300, "batch_size": 128}


def clusters(num_clusters=40, each=25, dim=24, seed=0):
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(num_clusters, 4)) @ generator.normal(size=(4, dim))
    points = np.repeat(centres, each, axis=0) + 0.3 * generator.normal(size=(num_clusters * each, dim))
    return (5 + 0.1 * points).astype(np.float32)


def report(quantizer, points):
    codes = quantizer.encode(points)
    return quantization_report(codes, points, quantizer.decode(codes), quantizer.config.codebook_size)


@pytest.fixture(scope="module")
def points():
    return clusters()


@pytest.fixture(scope="module")
def fitted(points):
    return RQVAE.fit(points, **SMALL, progress=False)


def test_learns_and_uses_all_codes(points, fitted):
    figures = report(fitted, points)
    assert figures["codes_used"] == [16, 16, 16]
    assert figures["relative_error"] < 0.35
    # Far better than the same model without k-means start, training, or both.
    torch.manual_seed(0)
    untrained = RQVAE(fitted.config)
    untrained.fit_standardization(points)
    assert report(untrained.eval(), points)["relative_error"] > 0.95
    untrained.initialize_codebooks(points)
    assert report(untrained, points)["relative_error"] > 0.9


def test_codes_are_of_the_embedding_alone(points, fitted):
    codes = fitted.encode(points)
    assert codes.shape == (1000, 3) and codes.dtype == np.int32
    order = np.random.default_rng(0).permutation(1000)
    np.testing.assert_array_equal(fitted.encode(torch.from_numpy(points[order]), batch_size=77), codes[order])
    near = fitted.encode(points + 1e-6)
    assert (near == codes).all(axis=1).mean() > 0.98


def test_standardization(points, fitted):
    standardised = (points - fitted.mean.numpy()) / fitted.scale.numpy()
    np.testing.assert_allclose(standardised.mean(axis=0), 0, atol=1e-3)
    assert np.square(standardised).mean() == pytest.approx(1, abs=1e-3)


def test_deterministic_by_seed(points, fitted):
    state = torch.get_rng_state()
    again = RQVAE.fit(points, **SMALL, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(again.encode(points), fitted.encode(points))
    other = RQVAE.fit(points, **{**SMALL, "steps": 30}, seed=1, progress=False)
    assert (other.encode(points) != fitted.encode(points)).any()


def test_saved_and_loaded(points, fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = load_quantizer(tmp_path)
    assert isinstance(loaded, RQVAE) and not loaded.training and bool(loaded.initialised)
    assert list(loaded.config.hidden_sizes) == [32]
    for name, value in fitted.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    np.testing.assert_array_equal(loaded.encode(points), fitted.encode(points))
    np.testing.assert_array_equal(loaded.decode(fitted.encode(points)), fitted.decode(fitted.encode(points)))


def test_load_quantizer_errors(tmp_path):
    with pytest.raises(DataError, match="config.json is missing"):
        load_quantizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(DataError, match="'t5' is not a quantizer"):
        load_quantizer(tmp_path)


def test_loss_is_the_papers(points, fitted):
    batch = torch.from_numpy(points[:50])
    output = fitted(batch)
    inputs = (batch - fitted.mean) / fitted.scale
    latents = fitted.encoder(inputs)
    codes, quantised = nearest_codes(latents, fitted.codebooks)
    reconstruction = (fitted.decoder(quantised) - inputs).square().sum() / 50
    residual, quantisation = latents, 0.0
    for level in range(3):
        left = residual - fitted.codebooks[level][codes[:, level]]
        quantisation += 1.25 * left.square().sum() / 50  # codebook and commitment terms are equal but for gradients
        residual = left
    assert torch.equal(output.codes, codes)
    assert output.reconstruction_loss.item() == pytest.approx(reconstruction.item(), rel=1e-4)
    assert output.quantization_loss.item() == pytest.approx(quantisation.item(), rel=1e-4)
    assert output.loss.item() == pytest.approx((reconstruction + quantisation).item(), rel=1e-4)


def test_gradients_pass_straight_through(points, fitted):
    batch = torch.from_numpy(points[:50])
    fitted.zero_grad()
    fitted(batch).reconstruction_loss.backward()
    assert fitted.encoder[0].weight.grad.abs().sum() > 0
    assert fitted.codebooks.grad is None or not fitted.codebooks.grad.any()  # the decoder's error moves no code
    fitted.zero_grad()
    fitted(batch).quantization_loss.backward()
    assert fitted.encoder[0].weight.grad.abs().sum() > 0 and fitted.codebooks.grad.abs().sum() > 0
    fitted.zero_grad()


def test_trains_alone_until_initialized(points):
    torch.manual_seed(0)
    model = RQVAE(RQVAEConfig(input_dim=24, hidden_sizes=(16,), latent_dim=4, codebook_size=8))
    output = model(torch.from_numpy(points[:9]))
    assert output.codes is None and output.quantization_loss == 0 and output.loss == output.reconstruction_loss
    model.initialize_codebooks(points)
    assert model(torch.from_numpy(points[:9])).codes.shape == (9, 3)


def test_dead_codes_are_restarted(points):
    model = RQVAE.fit(points, **SMALL, progress=False)
    with torch.no_grad():
        model.codebooks[1, 4:] = 1e3  # far from everything
    assert report(model, points)["codes_used"][1] == 4
    latents = model._latents(torch.from_numpy(points))
    usage = torch.from_numpy(np.stack([np.bincount(level, minlength=16) for level in model.encode(points).T])).float()
    usage[0], usage[2] = 1, 1
    assert model.restart_dead_codes(latents, usage, torch.Generator().manual_seed(0)) == 12
    assert (usage[1] > 0).all()
    assert report(model, points)["codes_used"][1] >= 14


def test_sinkhorn_balances_the_last_level(points):
    settings = {**SMALL, "steps": 60}
    plain = RQVAE.fit(points, **settings, sinkhorn_epsilon=0.0, progress=False)
    assert plain.config.sinkhorn_epsilon == 0
    model = RQVAE.fit(points, **settings, progress=False).train()
    batch = torch.from_numpy(points)
    spread = {
        mode: model.train(mode)(batch).codes[:, 2].bincount(minlength=16).float().std() for mode in (True, False)
    }
    assert spread[True] < 0.5 * spread[False]


def test_errors(points, fitted):
    with pytest.raises(DataError, match="10 items have 10 distinct embeddings, fewer than the 16 codes"):
        RQVAE.fit(points[:10], **SMALL, progress=False)
    with pytest.raises(DataError, match="24 dimensions|fitted to 24"):
        fitted.encode(points[:, :5])
    with pytest.raises(DataError, match=r"must be \[n, 3\]"):
        fitted.decode(np.zeros((2, 2), int))
    bad = points.copy()
    bad[7] = np.inf
    for use in (fitted.encode, lambda x: RQVAE.fit(x, **SMALL, progress=False)):
        with pytest.raises(DataError, match=r"rows hold NaN or infinity \(rows 7\)"):
            use(bad)


def test_numbers_of_steps(points):
    one = RQVAE.fit(points, **{**SMALL, "steps": 1}, progress=False)
    assert one.is_initialized() and len(np.unique(one.encode(points), axis=0)) > 100
    with pytest.raises(DataError, match="trained for -3 steps: give more"):
        RQVAE.fit(points, **{**SMALL, "steps": -3}, progress=False)
    assert RQVAETraining(steps=0).resolved(1000, 16).steps == 700


def test_a_training_that_diverges_is_refused(points):
    with pytest.raises(DataError, match="has diverged.*smaller learning_rate than 10000"):
        RQVAE.fit(points, **{**SMALL, "hidden_sizes": (32, 32, 32), "steps": 60}, learning_rate=1e4, progress=False)


@pytest.mark.skipif(not (DATA / "amazon" / "beauty").is_dir(), reason=f"no Beauty data in {DATA}")
def test_beauty():
    """The defaults but for the number of steps: a quarter of them, to be quick."""
    embeddings = load_embeddings(DATA / "amazon" / "beauty" / "embeddings.minilm.safetensors", 12_101)
    figures = report(RQVAE.fit(embeddings, steps=360, progress=False), embeddings)
    assert min(figures["codes_used_share"]) >= 0.95
    assert figures["collision_share"] <= 0.15
    assert figures["relative_error"] < 0.65


def test_old_names_of_methods_and_fields_warn(points):
    model = RQVAE(RQVAEConfig(input_dim=points.shape[1], num_codebooks=2, codebook_size=4))
    with pytest.warns(DeprecationWarning, match="RQVAE.fit_standardisation is now fit_standardization") as caught:
        model.fit_standardisation(points)
    with pytest.warns(DeprecationWarning, match="initialise_codebooks is now initialize_codebooks"):
        model.initialise_codebooks(points)
    assert caught[0].filename == __file__ and model.initialised
    output = model(torch.from_numpy(points))
    with pytest.warns(DeprecationWarning, match="quantisation_loss is now quantization_loss"):
        assert output.quantisation_loss is output.quantization_loss
