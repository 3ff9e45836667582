"""The lab: how gradients behave over time, measured.

`rnn_numpy.experiments` measures many networks, `rnn_numpy.report` puts the numbers into words and draws them. Some
measures need scipy, of the lab extra, which is imported where it is used. What does not fit is refused by an error of
`rnn_numpy.errors` that says what was expected.
"""

from rnn_numpy.lab.attention import AttentionSplit, attention_split
from rnn_numpy.lab.decomposition import Decomposition, PathSplit, Truncation, decompose
from rnn_numpy.lab.gates import GateReport, GateSummary, effective_memory, gate_report, time_constant
from rnn_numpy.lab.gradient_flow import GradientFlow, forecast_gradient_flow, gradient_flow, set_recurrent_weights
from rnn_numpy.lab.horizons import horizon_gradients
from rnn_numpy.lab.jacobians import Bounds, StateJacobian, StateJacobians, jacobian, state_jacobians
from rnn_numpy.lab.landscape import (
    Bifurcation,
    Cliff,
    Descent,
    bifurcation,
    cliff,
    cliff_gradient,
    cliff_line,
    descend,
    fold_points,
)
from rnn_numpy.lab.layer_diagnosis import LayerDiagnosis
from rnn_numpy.lab.lyapunov import CovariantVectors, LyapunovSpectrum, covariant_vectors, lyapunov
from rnn_numpy.lab.meanfield import (
    MeanField,
    critical_input_variance,
    fuss_catalan_edge,
    gaussian_product_exponents,
    gaussian_product_spread,
    meanfield,
)
from rnn_numpy.lab.online import UoroResult, snap1, uoro
from rnn_numpy.lab.regularisers import Flossing, Omega, floss, omega
from rnn_numpy.lab.reset import ResetDifference, reset_difference

__all__ = [
    "AttentionSplit", "Bifurcation", "Bounds", "Cliff", "CovariantVectors", "Decomposition", "Descent",
    "Flossing", "GateReport", "GateSummary", "GradientFlow", "LayerDiagnosis", "LyapunovSpectrum", "MeanField",
    "Omega", "PathSplit", "ResetDifference", "StateJacobian", "StateJacobians", "Truncation", "UoroResult",
    "attention_split", "bifurcation", "cliff", "cliff_gradient", "cliff_line", "covariant_vectors",
    "critical_input_variance", "decompose", "descend", "effective_memory", "floss", "fold_points",
    "forecast_gradient_flow", "fuss_catalan_edge", "gate_report", "gaussian_product_exponents",
    "gaussian_product_spread", "gradient_flow", "horizon_gradients", "jacobian", "lyapunov", "meanfield",
    "omega", "reset_difference", "set_recurrent_weights", "snap1", "state_jacobians", "time_constant", "uoro",
]  # fmt: skip
