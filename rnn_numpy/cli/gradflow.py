"""`rnn-numpy gradflow`: train small networks on a real series, and measure how the gradient flows back through time."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from rnn_numpy.cli import common, network_file
from rnn_numpy.cli.common import BadInputError, Outcome
from rnn_numpy.cli.train import EXPERIMENTS, reading
from rnn_numpy.experiments.experiment import open_experiment
from rnn_numpy.experiments.gradflow import GradflowOptions, gradflow_measurement, run_gradflow
from rnn_numpy.experiments.pairs import PairExperiment
from rnn_numpy.lab.gradient_flow import INITS
from rnn_numpy.models.sequence import CELLS
from rnn_numpy.report.gradflow_page import gradflow_report
from rnn_numpy.report.pairs_page import flow_report
from rnn_numpy.report.plots.gradient_flow import gradient_flow_figure
from rnn_numpy.report.plots.pairs import flow_figure
from rnn_numpy.tasks import BUNDLED, ForecastTask
from rnn_numpy.tasks.files import READING


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `gradflow` to the sub-commands."""
    parser = commands.add_parser(
        "gradflow",
        description="Train networks to forecast the next sample of a series, and measure how the gradient of the last "
        "step's error flows back through time: norm by lag, the lags at which a half, a tenth, a hundredth is left, "
        "decay per step, and whether it vanishes or explodes. Every cell is combined with every gain, and drawn "
        "several times. Of an LSTM it is the gradient of h and c together. Networks are computed in parallel, and "
        "each is kept when it is finished: after Ctrl-C, the same command goes on where it was.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    options = GradflowOptions()
    defaults = argparse.Namespace(**vars(options), gain=tuple(options.gains), data="eeg", **READING)
    add = functools.partial(common.add_option, parser, defaults)
    common.add_series(add)
    add("--cells", f"any of {', '.join(CELLS)}", "CELL", nargs="+", choices=CELLS)
    gain = "spectral radius of W_hh at the start; of lstm and gru, of each gate's block of it"
    add("--gain", gain, "G", nargs="+", type=common.positive_number)
    init = f"how W_hh, or each gate's block of it, is drawn: {', '.join(INITS)}; then it is scaled to the gain"
    add("--init", init, choices=INITS)
    forget_bias = (
        "bias of the forget gates of lstm at the start; 1, say, makes the cell keep more of what it holds, and of its "
        "gradient; left out, it is drawn as all other parameters are, near 0"
    )
    add("--forget-bias", forget_bias, "B", type=common.finite_number)
    add("--length", "steps of a window: the longest lag", "T", type=common.positive_int)
    add("--hidden", "hidden units", "H", type=common.positive_int)
    add("--batch", "windows measured, and windows per training step", "N", type=common.positive_int)
    add("--layers", "recurrent layers; the top one is measured", "L", type=common.positive_int)
    train_steps = "training steps, after which all is measured again; 0 measures untrained networks only"
    add("--train-steps", train_steps, "K", type=common.whole_number)
    add("--lr", "learning rate of gradient descent with momentum 0.9", "RATE", type=common.positive_number)
    add("--clip", "clip the norm of all gradients together to this", "NORM", type=common.positive_number)
    add("--seed", "of all random draws; of several, the first one", "S", type=common.whole_number)
    seeds = "draws of each network: one alone may say what the next one does not"
    add("--seeds", seeds, "K", type=common.positive_int)
    common.add_dask(parser)
    common.add_outputs(parser, "gradflow.png")
    model = (
        "measure this instead of training: a folder with an encoder-decoder, which train wrote, or a file of trained "
        "weights, see rnn-numpy inspect, which reads windows of --data"
    )
    parser.add_argument("--model", metavar="DIR|FILE", type=common.file_path, help=model)
    network_file.add_options(parser)


def run(arguments: argparse.Namespace) -> Outcome:
    """Measure, write the figure and the numbers, and return the table."""
    if arguments.model is not None:
        return network_file.measured(arguments) if arguments.model.is_file() else _of_model(arguments)
    network_file.refuse_options(arguments)
    common.check_before(arguments, [] if arguments.data in BUNDLED else [Path(arguments.data)])
    common.check_distinct("--cells", arguments.cells)
    common.check_distinct("--gain", arguments.gain)
    if arguments.forget_bias is not None and "lstm" not in arguments.cells:
        raise BadInputError(f"--forget-bias: is for lstm, which is not among --cells {' '.join(arguments.cells)}")
    options: GradflowOptions = common.options_of(GradflowOptions, arguments, gains=tuple(arguments.gain))
    task = ForecastTask.of(common.read_series(arguments), options.length)
    measurement = gradflow_measurement(task, options)
    total = len(options.cells) * len(options.gains) * options.seeds
    units = options.length * options.batch * options.hidden * options.layers
    work = total * (options.train_steps + 3.0) * units
    with common.networks("gradflow", measurement, total, work, arguments.out, arguments.dask) as given:
        result = run_gradflow(task, options, given.progress, executor=given.executor, store=given.store)
        return common.written(arguments, gradflow_report(result), gradient_flow_figure(result), result.to_dict())


def _of_model(arguments: argparse.Namespace) -> Outcome:
    """Measure a trained net."""
    common.check_before(arguments, [])
    with reading(arguments.model):
        experiment = open_experiment(arguments.model, EXPERIMENTS, for_prediction=True)
        if not isinstance(experiment, PairExperiment):
            known = ", ".join(name for name, kind in EXPERIMENTS.items() if issubclass(kind, PairExperiment))
            raise BadInputError(
                f"--model: {arguments.model} holds a net of {experiment.name}; encoder-decoders are those of {known}"
            )
        with common.working("gradflow", experiment.options.hidden) as progress:
            progress(0, 2, "measuring")
            flow = experiment.flow()
            progress(1, 2, "drawing")
            figure = flow_figure(flow)
    return common.written(arguments, flow_report(flow), figure, flow.to_dict())
