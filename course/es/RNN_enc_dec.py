"""
Codificador, decodificador y atención
=====================================

El tercer cuaderno de la clase: dos redes de distinto tamaño unidas por un estado, entrenadas sobre los símbolos
deseados y usadas hasta ``<EOS>``; la atención y su gradiente; y una red que describe imágenes de dígitos reales,
mirando una parte por vez.

Hace falta ``pip install ".[lab,data]" notebook``. Hay dos ejercicios que ``grade`` corrige, con las soluciones ocultas.
"""

# %%
# Dos redes y un estado
# ---------------------
# El codificador lee la secuencia entera; su último estado resume todo lo que leyó. El decodificador empieza de ahí, y
# puede ser de otro tamaño y dar otro número de pasos: basta una matriz en el medio. Hacia atrás es lo mismo al revés:
# lo que el decodificador le devuelve a su estado inicial, ``dh_0``, pasa por esa matriz y entra al codificador como
# ``dh_n``.

import matplotlib.pyplot as plt
import numpy as np

from rnn_numpy import GRU, RNN, Adam, Linear, clip_grad_norm
from rnn_numpy.checks import grade
from rnn_numpy.core.symbols import BOS, EOS, PAD
from rnn_numpy.lab import attention_split
from rnn_numpy.layers.attention import AttentionRNN
from rnn_numpy.layers.attention_decoder import AttentionDecoder
from rnn_numpy.layers.textbook import attend_forward
from rnn_numpy.models import Captioner, EncoderDecoder, decode_greedy
from rnn_numpy.models.writing import shifted
from rnn_numpy.tasks import DigitCaptions, RomanNumerals

rng = np.random.default_rng(0)
encoder, bridge, decoder = GRU(3, 5, rng=0), Linear(5, 8, rng=1), GRU(4, 8, rng=2)
x, y = rng.normal(size=(7, 2, 3)), rng.normal(size=(4, 2, 4))

_, h_n, read = encoder.forward(x)
h_0, joined = bridge.forward(h_n)
output, _, written = decoder.forward(y, h_0)
print(f"x {x.shape} -> h_n {h_n.shape} -> h_0 {h_0.shape} -> output {output.shape}")

back = decoder.backward(written, output)
dh_n = bridge.backward(joined, back.dh_0).dx
dx = encoder.backward(read, None, dh_n).dx
print(f"dx {dx.shape} <- dh_n {dh_n.shape} <- dh_0 {back.dh_0.shape} <- doutput {output.shape}")

# %%
# La tarea
# --------
# Números romanos: entra 1994, cifra por cifra, y sale MCMXCIV. Un 4 es IV, XL o CD según cuántas cifras lo sigan, así
# que hay que leer todo antes de escribir; y de 1 a 4 cifras salen de 1 a 15 letras, así que la red tiene que saber
# cuándo terminar.
#
# PAD rellena, BOS empieza y EOS termina. En el entrenamiento, ``for i in range(len(y_deseado))``: el decodificador lee
# lo deseado, corrido un lugar, diga lo que diga él mismo (teacher forcing). PAD y EOS tienen que ser distintos: si
# fueran el mismo, la máscara que tapa el relleno taparía el final, y la red no aprendería nunca a parar.

task = RomanNumerals()
letters = task.target_vocabulary


def shown(ids):
    names = {PAD: "PAD", BOS: "BOS", EOS: "EOS"}
    return " ".join(names[one] if one in names else letters.decode([one])[0] for one in ids)


source, source_lengths = task.encode(["1994", "40"])
target = np.stack([np.pad(letters.encode(text, end=True), (0, gap)) for text, gap in (("MCMXCIV", 0), ("XL", 5))], 1)
for n in range(2):
    print(f"x = {shown(shifted(target)[:, n])}")
    print(f"y = {shown(target[:, n])}")

# %%
# La pérdida es la entropía cruzada: el promedio de -log p del símbolo correcto, con p = softmax(logits).
#
# Ejercicio 1: el gradiente de la entropía cruzada
# ------------------------------------------------
# ``logits`` es (N, V) y ``target`` tiene N números enteros. Si los logits son grandes, exp desborda: ``grade`` lo
# prueba.


def my_cross_entropy(logits, target):
    p = ...
    return ...


print(grade(my_cross_entropy, lang="both"))

# %%
# .. raw:: html
#
#     <details><summary>Solución</summary>
#
# ::
#
#     def my_cross_entropy(logits, target):
#         e = np.exp(logits - logits.max(axis=1, keepdims=True))
#         p = e / e.sum(axis=1, keepdims=True)
#         p[np.arange(len(target)), target] -= 1
#         return p / len(target)
#
# .. raw:: html
#
#     </details>
#
# La atención
# -----------
# Un solo estado tiene que resumir toda la entrada. Con atención, el decodificador vuelve a mirar todos los estados del
# codificador: compara, elige y suma.
#
# ::
#
#     score_s = query . keys_s      alpha = softmax(score)      context = sum_s alpha_s values_s
#
# En la diapositiva ``keys`` y ``values`` son lo mismo, los h_j del codificador. El resto, leído al pie de la letra, no
# se puede calcular: z_t hace la consulta, de ella sale c_t, y recién con c_t se calcula el estado del paso t. Lo
# correcto es que consulte el estado anterior, z_{t-1}; además, lo que la diapositiva llama y_t es el nuevo estado, y el
# símbolo sale de él por una lectura lineal. Y el producto punto pide que los dos estados sean del mismo tamaño, cuando
# las dos redes eran de distinto tamaño: por eso el puntaje de costumbre lleva una matriz en el medio (``general``).

values = np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])[:, None]  # S = 3, N = 1, M = 2
query = np.array([[1.0, 0.0]])
alpha, context = attend_forward(query, values, values, np.ones((1, 3), bool))
print(f"score   {(values[:, 0] @ query[0]).round(4)}")
print(f"alpha   {alpha[0].round(4)}   sum {alpha.sum():.4f}")
print(f"context {context[0].round(4)}")

# %%
# Ejercicio 2: el gradiente de la atención
# ----------------------------------------
# ``query`` y ``dcontext`` son (N, M), ``keys`` y ``values`` (S, N, M), ``alpha`` (N, S). Los pesos suman 1: si uno
# sube, los otros bajan, y el jacobiano de la softmax no es diagonal.


def my_attention(dcontext, alpha, query, keys, values):
    dvalues = ...
    dalpha = ...
    dscore = ...
    dquery, dkeys = ..., ...
    return dquery, dkeys, dvalues


print(grade(my_attention, lang="both"))

# %%
# .. raw:: html
#
#     <details><summary>Solución</summary>
#
# ::
#
#     def my_attention(dcontext, alpha, query, keys, values):
#         dvalues = alpha.T[:, :, None] * dcontext
#         dalpha = (values * dcontext).sum(axis=2).T
#         dscore = alpha * (dalpha - (alpha * dalpha).sum(axis=1, keepdims=True))
#         dquery, dkeys = (dscore.T[:, :, None] * keys).sum(axis=0), dscore.T[:, :, None] * query
#         return dquery, dkeys, dvalues
#
# .. raw:: html
#
#     </details>
#
# Entrenar y usar
# ---------------
# Un codificador GRU bidireccional de 24 unidades por sentido, y un decodificador GRU de 40 con atención. 300
# actualizaciones de 64 pares; los números de prueba no se ven nunca.


def optimized(model, batches, updates, lr):
    optimizer, losses = Adam(model.params, lr), []
    for update in range(updates):
        optimizer.lr = lr * (1 - update / updates)
        loss, grads, _ = model.loss_and_grads(*next(batches))
        clip_grad_norm(grads, 1.0)
        optimizer.step(grads)
        losses.append(loss)
    return np.array(losses)


reader = GRU(16, 24, bidirectional=True, dtype=np.float32, rng=0)
writer = AttentionDecoder(16, 40, 48, cell="gru", score="general", dtype=np.float32, rng=1)
model = EncoderDecoder(reader, writer, len(task.source_vocabulary), len(letters), rng=2)
losses = optimized(model, iter(task.pairs("train").batches(64, rng=3)), 300, 1e-2)
print("L " + " ".join(f"{losses[start : start + 50].mean():.3f}" for start in range(0, 300, 50)))

# %%
# Al usarla, ``while last_token != <EOS>``: lo último que dijo es lo que lee. El lazo de la diapositiva puede no
# terminar: nada obliga a una red a decir EOS. Le falta una cota.


def write(number, longest=20):
    (state,) = model.start(*task.encode([number]))
    last, said, looked = BOS, [], []
    while last != EOS and len(said) < longest:
        log_p, state = model.next([last], state)
        last = int(log_p[0].argmax())
        said.append(last)
        looked.append(state.alpha[0])
    return said, np.array(looked)


for number in ("7", "40", "1994", "3888"):
    print(f"{number:>6} -> {shown(write(number)[0])}")

tested = task.pairs("test")
answers = decode_greedy(model, tested.source, tested.source_lengths, max_length=20, together=64)
found = task.score(task.sources["test"], [letters.decode(one.tokens) for one in answers])
print(f"{len(answers)}: {100 * (1 - found.wrong):.0f} %")

# %%
# De los errores, muchos son de números cortos: de los 3512 con que se entrena, tres de cada cuatro tienen cuatro
# cifras, y de una sola cifra la red casi no vio.
#
# Ahora, hacia dónde mira: cada fila es una letra que se escribe, cada columna una cifra que se leyó. Los pesos dicen de
# dónde salió el contexto; no prueban que la letra dependa de él.

said, looked = write("1994")
figure, ax = plt.subplots(figsize=(4.4, 4.4), layout="constrained")
image = ax.imshow(looked, cmap="viridis", vmin=0, vmax=1, aspect="auto")
ax.set_xticks(range(4), list("1994"))
ax.set_yticks(range(len(said)), shown(said).split())
ax.set(xlabel="$s$", ylabel="$t$")
figure.colorbar(image, label=r"$\alpha_{t,s}$")
figure.savefig("RNN_enc_dec_alpha.png", dpi=110)

# %%
# Por qué la atención remedia el desvanecimiento
# ----------------------------------------------
# La pérdida del decodificador le llega a cada símbolo leído por tres caminos: por los valores que se sumaron, por los
# pesos que los eligieron, y por la cadena de estados. El gradiente es lineal, así que la separación es exacta. Acá, con
# redes sin entrenar y una entrada de 60 pasos: por la cadena (``h_n``) casi no llega nada al principio; por los valores
# (``values``) y por los pesos (``alpha``) llega igual a todos.

S, D, H = 60, 8, 32
encoder, decoder = RNN(D, H, rng=1), AttentionRNN(D, H, rng=2)
memory, h_n, read = encoder.forward(rng.normal(size=(S, 4, D)))
output, _, written = decoder.forward(rng.normal(size=(6, 4, D)), h_n, given={"values": memory})
doutput = np.zeros_like(output)
doutput[-1] = rng.normal(size=(4, H))
back = decoder.backward(written, doutput)
split = attention_split(encoder, read, **back.given_ways["values"], bridge=back.dh_0)
print(f"{'|dL/dx_s|':10}" + "".join(f"{f'S-1-s = {lag}':>14}" for lag in (0, 10, 30, 59)))

ways = {"values": ("values", "#0072B2", "-"), "weights": ("alpha", "#E69F00", "--"), "bridge": ("h_n", "#D55E00", ":")}
figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
for way, (name, colour, style) in ways.items():
    line = split.by_lag(way).mean(axis=1)
    print(f"{name:10}" + "".join(f"{line[lag]:14.1e}" for lag in (0, 10, 30, 59)))
    ax.semilogy(line, color=colour, linestyle=style, linewidth=2, label=name)
ax.set(xlabel="$S - 1 - s$", ylabel=r"$\|\partial L / \partial x_s\|$", xlim=(0, S - 1))
ax.grid(alpha=0.3)
ax.legend(frameon=False)
figure.savefig("RNN_enc_dec_ways.png", dpi=110)

# %%
# Describir imágenes
# ------------------
# Lo mismo, con una imagen en lugar de una frase: uno de los dígitos manuscritos de scikit-learn, en uno de nueve
# lugares de un lienzo. Lo que se recorre son 25 ventanas de 10 x 10 píxeles; la descripción es el dígito, la fila y la
# columna. Las palabras son las de la tarea, en inglés. Los dígitos de prueba no se vieron en el entrenamiento, y se
# sabe dónde está cada uno, así que se puede medir hacia dónde mira la red cuando lo nombra: cuánto peso cae sobre el
# dígito, y cuánto caería si todos los pesos fueran iguales.

captions = DigitCaptions(most=1)
words = captions.vocabulary
sizes = {"hidden_size": 64, "memory_size": 64, "embedding_dim": 16}
captioner = Captioner(100, 25, len(words), **sizes, cell="gru", gate=False, dtype=np.float32, rng=0)
rng = np.random.default_rng(0)


def drawn():
    while True:
        batch = captions.draw(32, rng)
        yield batch._replace(memory=batch.memory.astype(np.float32))


optimized(captioner, drawn(), 450, 2e-2)
scenes = captions.scenes(300, 1, held_out=True)
memory = scenes.batch.memory.astype(np.float32)
written = decode_greedy(captioner, memory, max_length=6, together=64)
said = [words.decode(one.tokens) for one in written]
for place, name in enumerate(("digit", "row", "column")):
    pairs = zip(said, scenes.captions, strict=True)
    right = np.mean([one[place : place + 1] == truth[place : place + 1] for one, truth in pairs])
    print(f"{name:7}{100 * right:4.0f} %")
_, alpha, _, _ = captioner.read(memory, *scenes.batch[1:])
focus = captions.attention(scenes, alpha)
print(f"alpha  {focus.mass:.3f} (1/25: {focus.uniform:.3f})")

# %%
# Con medio millar de actualizaciones, unos segundos, el lugar sale siempre bien y el dígito, la mitad de las veces o
# más (al azar, una de diez). Entrenada unos minutos, nombra bien nueve de cada diez: ``rnn-numpy train captions``. En
# la figura, cuatro imágenes de prueba con lo que dice la red; el círculo es más grande donde más mira al nombrar el
# dígito.

figure, axes = plt.subplots(1, 4, figsize=(10, 3), layout="constrained")
centres = 5 + 5 * np.arange(5) - 0.5
across, down = np.meshgrid(centres, centres)
for n, ax in enumerate(axes):
    ax.imshow(scenes.images[n], cmap="gray_r", vmin=0, vmax=1)
    ax.scatter(across, down, s=600 * written[n].alpha[0], facecolors="none", edgecolors="#D55E00", linewidths=2)
    ax.set_title(" ".join(said[n]), fontsize=10)
    ax.set(xticks=[], yticks=[])
figure.savefig("RNN_enc_dec_captions.png", dpi=110)

# %%
# Con esto termina el curso. Para seguir: ``rnn-numpy step`` recorre el gradiente de una red en la terminal,
# ``gradcheck`` comprueba una red propia, y la galería de ejemplos tiene más de todo.
