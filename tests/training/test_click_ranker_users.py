"""Users on whom the T5's weight beside a click ranker is tuned."""

import numpy as np

from tiger.data.sequences import Sequences
from tiger.data.splits import LeaveOneOut
from tiger.retriever.dataset import EvaluationExamples
from tiger.training.click_ranker import weighing_users


def split_of(num_users: int) -> LeaveOneOut:
    """Users whose validation target is their own number."""
    users = np.arange(num_users)
    train = Sequences(
        np.arange(num_users + 1), np.zeros(num_users, dtype=np.int32), np.zeros(num_users, dtype=np.int64)
    )
    return LeaveOneOut(users, train, users.astype(np.int32), train, users.astype(np.int32), 0)


def targets(examples: EvaluationExamples) -> set[int]:
    return set(examples.targets.tolist())


def test_the_weight_is_tuned_on_others_than_chose_the_t5():
    split = split_of(22_363)  # as many as Beauty has
    everyone = EvaluationExamples(*split.part("valid"))
    chose = targets(everyone.sample(3000))  # as the retriever's training draws them
    assert len(chose & targets(everyone.sample(3000, seed=1))) > 300  # another seed alone is not enough
    tuned = weighing_users(split, {"arguments": {"eval_users": 3000}}, 3000)
    assert len(tuned) == len(targets(tuned)) == 3000 and not chose & targets(tuned)
    again = weighing_users(split, {"arguments": {"eval_users": 3000}}, 3000)
    assert np.array_equal(again.targets, tuned.targets)


def test_few_or_no_others(capsys):
    split = split_of(50)
    few = weighing_users(split, {"arguments": {"eval_users": 40}}, 30)
    assert len(few) == 10 and not targets(few) & targets(EvaluationExamples(*split.part("valid")).sample(40))
    assert not capsys.readouterr().out
    for training in ({"arguments": {"eval_users": None}}, {"arguments": {"eval_users": 50}}, {}):
        assert len(weighing_users(split, training, 30)) == 30
        assert "all validation users have chosen the T5" in capsys.readouterr().out
