"""Learning rules of a plastic synapse: written in real units, compiled to what Lava's learning
engine computes, or read from Lava's own strings; every trap on the way has a name.

from onchip.rules import Trace, compile_rule, read_rule

compiled = compile_rule(
    "dw = 0.8 * pre_trace * post - 0.9 * pre * post_trace",
    traces={"pre_trace": Trace(tau=10), "post_trace": Trace(tau=10)},
)
print(compiled.table())
rule = read_rule(dw="2^-2*x1*y0 - 2^-2*x0*y1", x1=(16, 10.0), y1=(16, 10.0))
"""

from onchip.rules.compiler import Compiled as Compiled
from onchip.rules.compiler import Term as Term
from onchip.rules.compiler import Trace as Trace
from onchip.rules.compiler import compile_rule as compile_rule
from onchip.rules.language import Decay as Decay
from onchip.rules.language import LavaRule as LavaRule
from onchip.rules.language import RuleError as RuleError
from onchip.rules.language import RuleWarning as RuleWarning
from onchip.rules.language import check_rule as check_rule
from onchip.rules.language import read_rule as read_rule
