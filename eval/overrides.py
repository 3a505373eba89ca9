"""What a command line may change about evaluators: name.key=value, such as finetune.loss=focal or knn.k=[5,20]."""

from collections.abc import Sequence
from dataclasses import field, fields

from eval.base import Evaluator
from eval.fewlabel import FewLabel
from eval.finetune import FineTune
from eval.knn import KNN
from eval.linear import Linear, LinearLayers
from eval.linear_aug import LinearAug
from eval.ridge import Ridge
from eval.sheet import Features
from ssl_cls import config
from ssl_cls.errors import UserError
from ssl_cls.spec import spec


@spec
class Evaluation:
    """The evaluators by the names that people type. A new one is a line here."""

    knn: KNN = field(default_factory=KNN)
    linear: Linear = field(default_factory=Linear)
    linear_layers: LinearLayers = field(default_factory=LinearLayers)
    linear_aug: LinearAug = field(default_factory=LinearAug)
    ridge: Ridge = field(default_factory=Ridge)
    fewlabel: FewLabel = field(default_factory=FewLabel)
    finetune: FineTune = field(default_factory=FineTune)
    features: Features = field(default_factory=Features)  # no evaluator: no rows come of it


NAMES = tuple(one.name for one in fields(Evaluation))


def evaluators(names: Sequence[str], overrides: Sequence[str] = ()) -> tuple[list[Evaluator], Features | None]:
    """The evaluators of these names, and which features are to be written, if `features` is one of them; settings are
    checked as strictly as a recipe's.

    Raises:
        UserError: every wrong override, each with the nearest valid key; or one of an evaluator that is not asked for.
    """
    parsed = config.parse(Evaluation, "{}", "the command line", overrides)
    for override in overrides:
        if (name := override.partition(".")[0]) not in names:
            fix = f"add it: --evaluators {' '.join([*names, name])}"
            raise UserError(f"{name} is not among the evaluators asked for", override, fix)
    asked = [getattr(parsed, name) for name in names if name != "features"]
    return asked, parsed.features if "features" in names else None
