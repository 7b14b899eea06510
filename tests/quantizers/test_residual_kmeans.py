import matplotlib.image
import numpy as np
import pytest
import torch

from tiger.quantizers.auto import load_quantizer
from tiger.quantizers.kmeans import balanced_codes, kmeans, nearest_codes
from tiger.quantizers.report import plot_code_usage, quantization_report
from tiger.quantizers.residual_kmeans import ResidualKMeans
from tiger.utils.errors import DataError


def clusters(num_clusters=20, each=30, dim=12, spread=0.1, seed=0):
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(num_clusters, dim))
    points = np.repeat(centres, each, axis=0) + spread * generator.normal(size=(num_clusters * each, dim))
    return points.astype(np.float32)


def test_kmeans_finds_separated_clusters():
    points = clusters()
    centres = kmeans(torch.from_numpy(points), 20, seed=1)
    truth = points.reshape(20, 30, 12).mean(axis=1)
    found = np.linalg.norm(truth[:, None] - centres.numpy()[None], axis=-1).min(axis=1)
    assert found.max() < 1e-4


def test_kmeans_leaves_no_centre_empty():
    points = torch.cat([torch.zeros(100, 2), torch.arange(20.0).reshape(10, 2) * 5])
    centres = kmeans(points, 11, seed=0)
    assert len(nearest_codes(points, centres[None])[0].unique()) == 11


def test_balanced_codes_use_all_centres_alike():
    points = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    centres = torch.cat([torch.zeros(1, 4), torch.randn(9, 4, generator=torch.Generator().manual_seed(1)) * 3])
    distances = torch.cdist(points, centres).square()
    assert distances.argmin(dim=1).bincount(minlength=10).max() > 700
    assert balanced_codes(distances, epsilon=0.02, iterations=200).bincount(minlength=10).max() < 150


def test_each_level_leaves_less_over():
    points = clusters(spread=0.5)
    quantizer = ResidualKMeans.fit(points, num_codebooks=4, codebook_size=16, progress=False)
    residual = torch.from_numpy(points) - quantizer.mean
    left = [float(residual.square().sum())]
    for codebook in quantizer.codebooks.detach():
        residual = residual - nearest_codes(residual, codebook[None])[1]
        left.append(float(residual.square().sum()))
    assert all(after < 0.9 * before for before, after in zip(left, left[1:], strict=False))
    # What is left after the last level is just what the reconstruction lacks.
    lacking = np.square(points - quantizer.decode(quantizer.encode(points))).sum()
    np.testing.assert_allclose(left[-1], lacking, rtol=1e-4)


def test_reconstruction_is_exact_when_every_item_has_a_code():
    points = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
    quantizer = ResidualKMeans.fit(points, num_codebooks=1, codebook_size=16, progress=False)
    codes = quantizer.encode(points)
    assert sorted(codes[:, 0]) == list(range(16)) and codes.dtype == np.int32
    np.testing.assert_allclose(quantizer.decode(codes), points, atol=1e-5)
    _, reconstruction = quantizer(torch.from_numpy(points))
    np.testing.assert_allclose(reconstruction.detach(), quantizer.decode(codes), atol=1e-6)


def test_deterministic_chunked_and_saved(tmp_path):
    points = clusters(spread=0.5)
    state = torch.get_rng_state()
    quantizer = ResidualKMeans.fit(points, codebook_size=16, seed=3, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    codes = quantizer.encode(points)
    again = ResidualKMeans.fit(torch.from_numpy(points), codebook_size=16, seed=3, progress=False)
    np.testing.assert_array_equal(again.encode(points, batch_size=7), codes)
    quantizer.save_pretrained(tmp_path)
    loaded = load_quantizer(tmp_path)
    assert isinstance(loaded, ResidualKMeans)
    np.testing.assert_array_equal(loaded.encode(points), codes)
    np.testing.assert_array_equal(loaded.decode(codes), quantizer.decode(codes))


def test_fitted_to_a_sample():
    points = clusters(num_clusters=8, each=400)
    quantizer = ResidualKMeans.fit(points, num_codebooks=2, codebook_size=8, max_points=300, progress=False)
    report = quantization_report(quantizer.encode(points), points, quantizer.decode(quantizer.encode(points)), 8)
    assert report["relative_error"] < 0.02


def test_errors():
    points = clusters()
    with pytest.raises(DataError, match="4 items have 2 distinct embeddings, fewer than the 3 codes"):
        ResidualKMeans.fit(np.array([[0.0, 1], [0, 1], [1, 0], [1, 0]]), codebook_size=3, progress=False)
    quantizer = ResidualKMeans.fit(points, codebook_size=8, progress=False)
    with pytest.raises(DataError, match="5 dimensions, the quantizer was fitted to 12"):
        quantizer.encode(np.ones((2, 5)))
    with pytest.raises(DataError, match=r"must be \[n, 3\]"):
        quantizer.decode(np.zeros((2, 4), int))
    with pytest.raises(DataError, match=r"must be 0..7, got 0..8"):
        quantizer.decode([[0, 0, 8]])
    points[3, 4] = np.nan
    for use in (quantizer.encode, lambda x: ResidualKMeans.fit(x, codebook_size=8, progress=False)):
        with pytest.raises(DataError, match=r"1 of 600 rows hold NaN or infinity \(rows 3\)"):
            use(points)


# The report


def test_report_values():
    codes = np.array([[0, 1], [0, 1], [1, 1], [2, 1]])
    embeddings = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    report = quantization_report(codes, embeddings, embeddings * 0.5, codebook_size=4)
    assert report["relative_error"] == pytest.approx(0.25) and report["mse"] == pytest.approx(0.125)
    assert report["codes_used"] == [3, 1] and report["codes_used_share"] == [0.75, 0.25]
    assert report["perplexity"] == pytest.approx([np.exp(0.5 * np.log(2) + 0.5 * np.log(4)), 1])
    assert report["collision_share"] == 0.5 and report["items_per_tuple_max"] == 2
    assert report["items_per_tuple_mean"] == pytest.approx(4 / 3)
    with pytest.raises(DataError, match="don't fit"):
        quantization_report(codes[:3], embeddings, embeddings, 4)


def test_plot(tmp_path):
    codes = np.random.default_rng(0).integers(0, 16, size=(500, 2))
    plot_code_usage(codes, 16, tmp_path / "usage.png")
    picture = matplotlib.image.imread(tmp_path / "usage.png")
    assert picture.shape[0] > 400 and picture.std() > 0.05
