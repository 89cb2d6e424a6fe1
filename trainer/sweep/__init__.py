"""The search over settings that the papers leave open: rule, (k, n), surrogate, learning rates.

A sweep is a folder, and as many processes as like work on it at once::

    sweep.toml        what is searched: fixed settings, space, objective, held-out part
    study.journal     Optuna's journal, a JSON object a line: the trials
    trials/0003/      a trial's run folder, as of :mod:`trainer.loop`
    trials.csv        the trials as a table
    best.toml         the settings of the best one, for all training samples and the test samples

A trial is measured on a part of the training samples that it is not trained with (its settings'
``validation``). The test samples are not looked at.

Who works on a trial holds a lock on a file in its folder, which the operating system takes back
when the process ends, however it ends. So a trial that runs by the journal while its lock is free
was killed: whoever finds it goes on with it, from its last full epoch to the same numbers. What a
trial is given depends on the seed, its number and the trials that are done by then, so a single
process finds the same again, whether it was killed in between or not.
"""

from loihi.errors import PumiceError

try:
    import optuna  # noqa: F401
except ImportError:
    raise PumiceError("a sweep needs Optuna: pip install 'pumice[sweep]'") from None
from trainer.sweep.plan import BEST, JOURNAL, OBJECTIVES, PLAN, TABLE, TRIALS, Plan
from trainer.sweep.space import Space, SweepError, default_space
from trainer.sweep.study import DEATHS, Sweep
from trainer.sweep.trials import STATES, Found, Trial

__all__ = [
    "BEST",
    "DEATHS",
    "JOURNAL",
    "OBJECTIVES",
    "PLAN",
    "STATES",
    "TABLE",
    "TRIALS",
    "Found",
    "Plan",
    "Space",
    "Sweep",
    "SweepError",
    "Trial",
    "default_space",
]
