import runpy
from pathlib import Path

import pytest

from eval.base import specification
from eval.fewlabel import FewLabel
from eval.finetune import FineTune
from eval.knn import KNN
from eval.overrides import NAMES, evaluators
from eval.sheet import Features
from ssl_cls.errors import UserError


def test_evaluators_come_in_the_order_asked_with_what_was_changed() -> None:
    made, features = evaluators(
        ["finetune", "knn"], ["knn.k=[5,20]", "finetune.steps=7", "finetune.learning_rates=[1e-3]"]
    )
    assert made == [FineTune(steps=7, learning_rates=(1e-3,)), KNN(k=(5, 20))]
    assert features is None
    assert evaluators(["fewlabel"]) == ([FewLabel()], None)
    assert evaluators(["features"], ["features.layers=[-1,-2]"]) == ([], Features(layers=(-1, -2)))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("finetune.step=7", "finetune.step: unknown key; did you mean steps?"),
        ("finetune.steps=many", "finetune.steps: must be a whole number"),
        ("finetune.steps=0", "must be greater than 0"),
        ("finetune.draws=[-1]", "must be at least 0"),
        ("finetune.name=finetune/v9", "finetune.name: must be finetune/v1"),
        ("fintune.steps=7", "fintune: unknown key; did you mean finetune?"),
        ("train.epochs=3", "train: unknown key; the keys here are knn, linear"),
        ("knn.k=[5]", "knn is not among the evaluators asked for"),
        ("finetune.steps", "not of the form key.path=value"),
    ],
)
def test_a_wrong_override_is_refused_with_the_nearest_right_one(override: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        evaluators(["finetune"], [override])
    assert said in str(refused.value)


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(UserError) as refused:
        evaluators(["knn", "finetune"], ["knn.q=1", "finetune.steps=1.5"])
    assert "the evaluation is wrong in 2 places" in refused.value.what


def test_the_command_line_knows_all_of_them() -> None:
    tool = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "evaluate.py"))
    assert set(tool["NAMES"]) == set(NAMES)


def test_rows_name_an_evaluator_as_they_did_before_it_had_options() -> None:
    """The committed rows were made by these specs: they are known, not done again."""
    assert specification(FineTune()) == {
        "name": "finetune/v1", "n_labels": 600, "draws": [0], "learning_rates": [3e-4, 1e-3, 3e-3],
        "steps": 500, "batch_size": 64,
    }  # fmt: skip
    assert set(specification(KNN())) == {"name", "k", "temperature"}
