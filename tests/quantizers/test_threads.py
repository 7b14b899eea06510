"""What is fitted is the same with any number of threads."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tiger.quantizers.kmeans import balanced_codes, squared_distances
from tiger.quantizers.residual_kmeans import ResidualKMeans
from tiger.quantizers.rqvae import RQVAE

# Matrices of 24, 40 and 100 columns end in a part of a block; the last case adds up gradients of a large batch.
KMEANS = [(1000, 24, 16), (3000, 100, 100)]
RQVAES = [
    (1000, 24, {"codebook_size": 20, "hidden_sizes": (100, 40), "latent_dim": 12}),
    (2000, 64, {"codebook_size": 16, "hidden_sizes": (64,)}),
    (1100, 32, {"codebook_size": 520, "hidden_sizes": (64,)}),
]

# Prints digests of the vectors of texts and of a log, and of codes of the first.
FITS = """
import hashlib
import numpy as np
from tiger.data.sequences import Sequences
from tiger.embeddings.item_vectors import cooccurrence_vectors
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.quantizers.residual_kmeans import ResidualKMeans
from tiger.quantizers.rqvae import RQVAE

random = np.random.default_rng(0)
words = random.integers(0, 600, (1500, 12)) % random.integers(1, 600, (1500, 1))
texts = [" ".join(f"w{word}" for word in row) for row in words]
vectors = LSAEncoder.fit(texts, dim=64).encode(texts)
items = random.integers(0, 1500, 12000).astype(np.int32)
log = Sequences(np.arange(0, 12001, 8), items, np.tile(np.arange(8), 1500))
digests = [vectors, cooccurrence_vectors(log, 1500, dim=64)]
digests.append(ResidualKMeans.fit(vectors, codebook_size=24, iterations=4, progress=False).encode(vectors))
digests.append(RQVAE.fit(vectors, codebook_size=24, hidden_sizes=(40,), steps=8, progress=False).encode(vectors))
print(*(hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest() for values in digests))
"""


def data(rows: int, dim: int) -> np.ndarray:
    random = np.random.default_rng(0)
    points = random.normal(size=(rows, 8)) @ random.normal(size=(8, dim)) + 0.3 * random.normal(size=(rows, dim))
    return points.astype(np.float32)


@pytest.fixture
def with_threads():
    """Call a function with each of some numbers of threads; the number is put back."""
    before = torch.get_num_threads()

    def results(function, numbers=(1, 2, 3)):
        found = []
        for number in numbers:
            torch.set_num_threads(number)
            found.append(function())
        return found

    yield results
    torch.set_num_threads(before)


@pytest.mark.parametrize("rows, dim, size", KMEANS)
def test_residual_kmeans(with_threads, rows, dim, size):
    points = data(rows, dim)

    def fit():
        fitted = ResidualKMeans.fit(points, codebook_size=size, iterations=8, progress=False)
        return fitted.state_dict(), fitted.encode(points)

    (tensors, codes), *others = with_threads(fit, (1, 2, 3, 16))
    for other_tensors, other_codes in others:
        np.testing.assert_array_equal(other_codes, codes)
        assert all(torch.equal(other_tensors[name], value) for name, value in tensors.items())


@pytest.mark.parametrize("rows, dim, sizes", RQVAES)
def test_rqvae(with_threads, rows, dim, sizes):
    points = data(rows, dim)

    def fit():
        fitted = RQVAE.fit(points, **sizes, steps=16, progress=False)
        return fitted.state_dict(), fitted.encode(points)

    (tensors, codes), *others = with_threads(fit)
    for other_tensors, other_codes in others:
        np.testing.assert_array_equal(other_codes, codes)
        assert all(torch.equal(other_tensors[name], value) for name, value in tensors.items())


def test_parts_of_blocks_change_no_value(with_threads):
    points, centers = torch.from_numpy(data(500, 24)), torch.from_numpy(data(21, 24))
    distances, *others = with_threads(lambda: squared_distances(points, centers))
    assert distances.shape == (500, 21) and all(torch.equal(other, distances) for other in others)
    exact = torch.cdist(points.double(), centers.double()).square() - points.double().square().sum(dim=1, keepdim=True)
    torch.testing.assert_close(distances.double(), exact, atol=1e-3, rtol=1e-4)
    codes = balanced_codes(distances, epsilon=0.05, iterations=50)
    assert codes.max() < 21 and codes.bincount(minlength=21).min() > 0
    # Columns that are infinitely far get nothing, as if they were not there, but for the temperature's mean.
    wide = torch.cat([distances, torch.full((500, 11), float(distances.max()) * 1e3)], dim=1)
    mean = [float((each - each.min(dim=1, keepdim=True).values).mean()) for each in (distances, wide)]
    assert torch.equal(balanced_codes(wide, 0.05 * mean[0] / mean[1], iterations=50), codes)


def test_widths_of_an_rqvae_are_its_configs():
    torch.manual_seed(0)
    points = torch.from_numpy(data(50, 24))
    model = RQVAE.fit(points, codebook_size=8, hidden_sizes=(20,), latent_dim=5, steps=2, progress=False)
    assert [tuple(layer.weight.shape) for layer in model.encoder[::2]] == [(20, 24), (5, 20)]
    first, last = model.encoder[0], model.encoder[2]
    inputs = (points - model.mean) / model.scale
    expected = (inputs @ first.weight.T + first.bias).relu() @ last.weight.T + last.bias
    torch.testing.assert_close(model.encoder(inputs), expected)
    model.zero_grad()
    model.encoder(inputs).sum().backward()
    torch.testing.assert_close(last.bias.grad, torch.full((5,), 50.0))


def test_encoders_and_quantizers_in_processes_of_1_and_3_threads():
    found = []
    for number in ("1", "3"):
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": number,
            "OPENBLAS_NUM_THREADS": number,
            "MKL_NUM_THREADS": number,
        }
        done = subprocess.run(
            [sys.executable, "-c", FITS],
            cwd=Path(__file__).parents[2],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.split())
    assert len(found[0]) == 4 and found[0] == found[1]
