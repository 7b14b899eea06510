"""The speed benchmarks on a catalogue so small that they prove nothing but that they run, and say what they should."""

import asyncio
import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data.demo import write_demo
from tests.conftest import make_model
from tiger.data.dataset import RecommendationData
from tiger.embeddings.item_text import item_texts
from tiger.embeddings.lsa_encoder import LSAEncoder
from tiger.recommender.recommender import TigerRecommender
from tiger.semantic_ids.tokenizer import SemanticIdTokenizer

RECIPES = Path(__file__).parents[2] / "recipes" / "speed"
RESULTS = RECIPES.parent / "results" / "speed"


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A demo catalogue, and a recommender that has learned nothing."""
    folder = tmp_path_factory.mktemp("speed")
    write_demo(folder / "demo", num_items=200, num_users=200, seed=0)
    data = RecommendationData.load(folder / "demo")
    texts = item_texts(data.items)
    embeddings = LSAEncoder.fit(texts, dim=16).encode(texts)
    tokenizer = SemanticIdTokenizer.fit(
        embeddings, data.item_ids, quantizer="residual-kmeans", codebook_size=8, progress=False
    )
    TigerRecommender(make_model(tokenizer, history_attention="full"), tokenizer).save_pretrained(folder / "model")
    return folder


@pytest.fixture
def run(work, monkeypatch):
    """Run a benchmark as its command line would; what it wrote."""

    def run(name: str, *options) -> dict:
        monkeypatch.syspath_prepend(str(RECIPES))
        given = {"--dataset": work / "demo", "--model": work / "model", "--results_dir": work / "results"}
        words = [str(word) for pair in given.items() for word in pair]
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words, "--repeats", "1", *map(str, options)])
        importlib.import_module(name).main()
        return json.loads((work / "results" / f"{name}.json").read_text())

    return run


def test_decoding_compares_what_gives_the_same_answers(run):
    result = run("decoding", "--beams", 5, "--batches", 1, 4, "--latency_users", 4)
    assert result["same_answers"]["largest_score_gap"]["generate"] < 1e-3
    assert [(cell["batch"], cell["beams"]) for cell in result["cells"]] == [(1, 5), (4, 5)]
    for cell in result["cells"]:
        times = cell["cpu_ms_per_user"]
        assert 0 < times["tiger's products alone"] < times["tiger"]
        where = f"batch {cell['batch']}, 5 beams, against the better of HF"
        hf = min(times["generate, logits processor"], times["generate, prefix function"])
        assert result["ratios"][where] == pytest.approx(hf / times["tiger"], abs=0.01)
    absent = importlib.util.find_spec("cornac") is None
    assert bool(result["could_not_run"]) == absent and ("cornac" in result["cells"][0]["cpu_ms_per_user"]) != absent


def test_decoding_refuses_to_time_different_answers(run, monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    decoding = importlib.import_module("decoding")
    right = decoding.hf_generate

    def wrong(*args, **options):
        found, scores = right(*args, **options)
        return found, scores + 0.5

    monkeypatch.setattr(decoding, "hf_generate", wrong)
    with pytest.raises(AssertionError, match="generate and beam_search differ"):
        run("decoding", "--beams", 5, "--batches", 1, "--latency_users", 4)


def test_catalogue(run):
    result = run("catalogue", "--sizes", 500, 2000, "--batch", 2, "--beams", 5)
    assert [row["items"] for row in result["rows"]] == [500, 2000]
    assert all(row["bytes_an_item"] > 0 and row["trie_ms_a_step"] > 0 for row in result["rows"])


def test_growth_of_stages(run, work, monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    growth, stages = (importlib.import_module(name) for name in ("growth", "growth_stages"))
    asked = []
    monkeypatch.setattr(growth, "in_a_process", lambda *given: asked.append(given) or growth.measured(*given))
    names = ["add one item, codes", "trie", "app, one search"]
    result = run("growth", "--sizes", 300, 400, "--largest", 500, "--stages", *names)
    assert {size for name, size in asked if name in stages.AT_ANY_SIZE} == {300, 400, 500}
    rows = {row["stage"]: row for row in result["rows"]}
    assert set(rows) == set(names)
    assert all("failed" not in one and one["cpu_seconds"] >= 0 for row in result["rows"] for one in row["sizes"])
    again = run("growth", "--sizes", 300, "--stages", "trie")  # what else was measured stays
    assert len(again["rows"]) == len(rows) and (work / "results" / "growth.png").exists()
    assert "second stage, an item more" in growth.measured("second stage", 300)
    found = [{"items": size, "cpu_seconds": size * 1e-3, "peak_mib": 50} for size in (10, 100, 1000)]
    assert growth.exponents(found) == {"exponent of cpu_seconds": 1.0, "exponent of peak_mib": 0.0}
    page = "\n".join(importlib.import_module("report").growth_lines(result))
    assert "| trie |" in page and "500 items" in page


def test_without_a_gpu_the_result_says_so(run, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run("gpu")["could_not_run"] == ["no GPU on this machine"]


def test_the_gpu_benchmark_runs_on_what_there_is(run):
    result = run(
        "gpu", "--device", "cpu", "--small", "true", "--sections", "search", "graphs", "options", "trie", "rqvae"
    )
    assert result["search"]["8"]["a_second"] > 0 and result["trie"]["items"] == 2000
    assert result["graphs"]["recorder"].startswith("none here") and result["graphs"]["8"]["same_rows"] == 1.0
    assert "one user 4 to 5 ms" in result["search"]["estimate"] and "estimate" not in result["trie"]
    assert set(result["options"]) >= {"plain", "history removed", "half allowed", "both"}
    assert "could_not_run" not in result


def test_a_section_of_the_gpu_benchmark_that_fails_costs_no_other(run, monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.setattr(importlib.import_module("gpu").Bench, "options", lambda bench: 1 / 0)
    result = run("gpu", "--device", "cpu", "--small", "true", "--sections", "options", "search")
    assert result["could_not_run"] == ["options: ZeroDivisionError: division by zero"]
    assert result["search"]["1"]["ms"] > 0


def test_a_section_that_takes_too_long_is_stopped(run, monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.setattr(importlib.import_module("gpu").Bench, "options", lambda bench: time.sleep(60))
    words = ("--section_seconds", "0.2", "--sections", "options", "trie")
    result = run("gpu", "--device", "cpu", "--small", "true", *words)
    assert result["could_not_run"] == ["options: TimeoutError: stopped after 0 seconds"]
    assert result["trie"]["items"] == 2000


def test_a_gpu_that_is_lost_is_left_to_a_fresh_process(run, monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    sections = importlib.import_module("gpu_sections")
    begun, states = [], iter([True, False])
    monkeypatch.setattr(sections, "is_usable", lambda device: next(states))
    monkeypatch.setattr(sections.subprocess, "run", lambda words, check: begun.append(words))
    options = ("--device", "cpu", "--small", "true", "--sections")
    run("gpu", *options, "trie", "search", "options")
    (words,) = begun
    assert words[0] == sys.executable and words[-2:] == ["--sections", "options"] and "--resume" in words
    monkeypatch.setattr(sections, "is_usable", lambda device: True)
    result = run("gpu", *options, "options", "--resume", "true")
    assert result["trie"]["items"] == 2000 and result["search"]["1"]["ms"] > 0 and result["options"]["both"]


def test_the_page_is_that_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    assert importlib.import_module("report").page(RESULTS) == (RESULTS / "README.md").read_text()


def test_load_is_offered_whether_it_is_answered_or_not(run):
    short = ("--seconds", 1, "--sweeps", 1, "--queues", 1024, "--closed_requests", 32)
    result = run("load", "--shares", 0.2, 1.5, *short)
    slow, fast = result["rows"]
    assert fast["offered_a_second"] == pytest.approx(7.5 * slow["offered_a_second"], rel=0.01)
    for row in (slow, fast):
        # The number of a Poisson process's arrivals in a second is off by its root.
        assert abs(row["requests"] - row["offered_a_second"]) < 6 * row["offered_a_second"] ** 0.5
        assert row["answered"] + sum(row["errors"].values()) == row["requests"]
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert slow["errors"] == {} and slow["service_cpu_ms_a_request"] > 0


def test_an_answer_that_is_late_makes_the_next_late_too(monkeypatch):
    """The time counts from when a request should be sent; a service that sleeps answers all when it wakes."""
    monkeypatch.syspath_prepend(str(RECIPES))
    clients = importlib.import_module("clients")
    seconds, content = 0.5, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"

    async def main() -> list:
        asleep = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, asleep.set)

        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            await asleep.wait()
            writer.write(content)
            await reader.read()
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            return await clients.opened(server.sockets[0].getsockname()[1], [0.0, 0.1, 0.2, 0.3], [b""] * 4)

    done = asyncio.run(main())
    assert [one.status for one in done] == [200] * 4
    for one, at in zip(done, (0.0, 0.1, 0.2, 0.3)):
        assert one.seconds == pytest.approx(seconds - at, abs=0.09)


def test_arrivals_are_a_poisson_process(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    times = importlib.import_module("load").arrivals(100.0, 200.0, np.random.default_rng(0))
    gaps = np.diff(times)
    assert len(times) == pytest.approx(20_000, rel=0.02) and 0 <= times[0] and times[-1] <= 200
    # Exponential gaps: their mean is their standard deviation.
    assert gaps.mean() == pytest.approx(0.01, rel=0.02) and gaps.std() == pytest.approx(0.01, rel=0.03)
