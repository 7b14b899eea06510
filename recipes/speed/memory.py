"""CPU time of answers with a memory beside those of the T5 alone, in turn.

python recipes/speed/memory.py --model runs/beauty/model [--dataset datasets/beauty] [--repeats 5]
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from benchmark import SpeedArguments, interleaved, one_thread, write_result

from tiger.cli.common import friendly_errors
from tiger.data.dataset import RecommendationData
from tiger.recommender.recommender import TigerRecommender
from tiger.retriever.dataset import EvaluationExamples
from tiger.training.arguments import parse_arguments
from tiger.utils.errors import DataError


@dataclass
class MemorySpeedArguments(SpeedArguments):
    batches: list[int] = field(default_factory=lambda: [1, 16, 256], metadata={"help": "histories of a request"})
    num_beams: int = 50


def main() -> None:
    (args,) = parse_arguments([MemorySpeedArguments])
    one_thread()
    recommender = TigerRecommender.from_pretrained(args.model)
    if recommender.memory is None:
        raise DataError(f"{args.model} has no memory: python recipes/memory.py gives it one.")
    split = RecommendationData.load(args.dataset).leave_one_out(recommender.training.get("shuffle_ties"))
    rows = []
    for count in args.batches:
        histories = EvaluationExamples(*split.part("test")).sample(count, seed=1).histories
        answer = partial(recommender.recommend_rows, histories, 10, num_beams=args.num_beams, rank=False)
        found = interleaved({"T5": partial(answer, memory=False), "with memory": answer}, args.repeats)
        seconds = {name: one["cpu_seconds"] / count for name, one in found.items()}
        row = {"histories": count} | {
            f"{name}, CPU ms a user": round(1e3 * value, 3) for name, value in seconds.items()
        }
        rows.append(row | {"ratio": round(seconds["with memory"] / seconds["T5"], 3)})
        print(rows[-1])
    what = "answers with a memory beside those of the T5 alone, in float32; medians of interleaved rounds"
    write_result(
        args, "memory", {"what": what, "num_beams": args.num_beams, "pairs": recommender.memory.size, "rows": rows}
    )


if __name__ == "__main__":
    with friendly_errors():
        main()
