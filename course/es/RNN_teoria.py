"""
Teoría de las redes recurrentes, con números
============================================

El primer cuaderno de la clase: la neurona recurrente, los tamaños de sus parámetros, la retropropagación a través del
tiempo (BPTT) término por término, el gradiente que se desvanece o explota, el recorte, LSTM y GRU. Todo lo que está en
las diapositivas se calcula acá; donde ellas tienen un desliz, se dice cuál es y qué es lo correcto.

Hace falta ``pip install ".[lab,data]" notebook`` y nada más. Hay cuatro ejercicios: una función sin terminar, y una
celda con ``grade`` que la corrige y dice qué ecuación está mal. Las soluciones están ocultas debajo de cada uno.
"""

# %%
# La neurona recurrente
# ---------------------
# En cada paso hace la misma cuenta, con los mismos parámetros, sobre la entrada del paso y su estado anterior:
#
# ::
#
#     a_t = b + W h_{t-1} + U x_t
#     h_t = tanh(a_t)
#
# Con x = [0,7; 0,9; 1,1], U = 0,2, W = 0,3 y b = -0,1. La diapositiva escribe -0,3 dentro de la tanh, pero sus
# resultados, 0,0399, 0,0917 y 0,1464, son los de b = -0,1, con los decimales truncados. La columna de la derecha
# muestra lo que daría -0,3.

import matplotlib.pyplot as plt
import numpy as np

from rnn_numpy import GRU, LSTM, RNN, clip_grad_norm, clip_grad_value
from rnn_numpy.checks import complex_step, grade
from rnn_numpy.lab import decompose

x = np.array([0.7, 0.9, 1.1])
U, W, b = 0.2, 0.3, -0.1


def neuron(b):
    h = [0.0]  # h[0] = h_{-1}
    for x_t in x:
        h.append(np.tanh(b + W * h[-1] + U * x_t))
    return np.array(h)


h = neuron(b)
print(f"{'t':>2} {'x_t':>5} {'h_t, b = -0.1':>15} {'h_t, b = -0.3':>15}")
for t in range(3):
    print(f"{t:2} {x[t]:5} {h[t + 1]:15.5f} {neuron(-0.3)[t + 1]:15.5f}")

# %%
# Los tamaños
# -----------
# ``RNN`` es ``torch.nn.RNN`` escrita en NumPy: las mismas opciones, los mismos nombres, los mismos tamaños. Sea D el
# tamaño de la entrada (``input_size``) y H el del estado (``hidden_size``):
#
# ::
#
#     h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)
#
#     W_ih (H, D)     b_ih (H,)     W_hh (H, H)     b_hh (H,)
#
# Los datos son (T, N, D): T pasos, N secuencias. De la segunda capa en adelante la entrada es el estado de la capa de
# abajo, así que W_ih es (H, H). Las cuatro redes de la diapositiva, y después tres para completar a mano antes de
# mirar: el Ejemplo A (D = 2, H = 3), el B (D = 3, H = 4, dos capas) y el C (D = 3, H = 4, bidireccional).

T, N = 5, 1


def sizes(title, D, H, **options):
    rnn = RNN(D, H, rng=0, **options)
    output, h_n, _ = rnn.forward(np.zeros((T, N, D)))
    print(f"\n{title}: D = {D}, H = {H}  x {(T, N, D)}  output {output.shape}  h_n {h_n.shape}")
    for name, array in rnn.params.items():
        print(f"  {name:25} {array.shape}")


sizes("1", D=1, H=1)
sizes("2", D=1, H=3)
sizes("3", D=3, H=3)
sizes("4", D=3, H=3, num_layers=2)
sizes("A", D=2, H=3)
sizes("B", D=3, H=4, num_layers=2)
sizes("C", D=3, H=4, bidirectional=True)

# %%
# La doble suma
# -------------
# ¿Cuánto vale la derivada de la pérdida respecto de W? Que cada estado pronostique la entrada siguiente: L es la suma
# de L_t = (h_t - y_t)^2 / 2, con y = [0,9; 1,1; 1,3]. W actuó en todos los pasos k hasta t, así que
#
# ::
#
#     dL/dW = sum_t sum_{k <= t} G(t, k)
#     G(t, k) = dL_t/dh_t * P(t, k) * (1 - h_k^2) h_{k-1}
#     P(t, k) = J_t J_{t-1} ... J_{k+1},   P(t, t) = 1,   J_t = dh_t/dh_{t-1} = (1 - h_t^2) W
#
# El último factor es la derivada inmediata de h_k: la de W en el paso k, con h_{k-1} fijo. Entre t y k hay t - k
# factores. Leída al pie de la letra, la productoria de la diapositiva, de j = k a j = t, tiene uno de más; y como t y k
# empiezan en 0, conviene decir que la fila 0 de ``h`` es el estado inicial, h_{-1}.

y = np.array([0.9, 1.1, 1.3])
slope = 1 - h[1:] ** 2  # 1 - h_t^2
J = slope * W


def G(t, k, immediate, slides=False):
    factors = J[k : t + 1] if slides else J[k + 1 : t + 1]
    return (h[t + 1] - y[t]) * np.prod(factors) * slope[k] * immediate[k]


def table(name, immediate):
    print(f"\nG(t, k), dL/d{name}" + "".join(f"{f'k = {k}':>11}" for k in range(3)) + f"{'sum':>11}")
    rows = [[G(t, k, immediate) for k in range(t + 1)] for t in range(3)]
    for t, row in enumerate(rows):
        cells = "".join(f"{cell + 0.0:11.6f}" for cell in row)
        print(f"  t = {t}        {cells:33}{sum(row) + 0.0:11.6f}")
    print(f"  {'sum':44}{sum(map(sum, rows)):11.6f}")
    return sum(map(sum, rows))


# W: h_{k-1}; U: x_k; b: 1
dW, dU, db = table("W", h[:-1]), table("U", x), table("b", np.ones(3))

# %%
# Los tres gradientes de la diapositiva difieren sólo en ese último factor: h_{k-1}, x_k o 1. La columna k = 0 de W es
# 0, porque ahí W multiplica al estado inicial, que es 0. Nadie calcula BPTT así: ``backward`` recorre los pasos una
# vez, de atrás hacia adelante, y llega a la misma suma. Y la derivada por el paso complejo, que no sabe de cadenas ni
# de sumas, también. La última fila es la productoria con un factor de más.

rnn = RNN(1, 1, rng=0)
rnn.params.flat[:] = [U, W, b, 0.0]
output, _, trace = rnn.forward(x.reshape(3, 1, 1))
back = rnn.backward(trace, output - y.reshape(3, 1, 1))


def loss(p):
    h_t, total = 0.0, 0.0
    for x_t, y_t in zip(x, y, strict=True):
        h_t = np.tanh(p["b"] + p["W"] * h_t + p["U"] * x_t)
        total = total + (h_t - y_t) ** 2 / 2
    return total.sum()


exact = complex_step(loss, {"U": np.array([U]), "W": np.array([W]), "b": np.array([b])})
slides = sum(G(t, k, h[:-1], slides=True) for t in range(3) for k in range(t + 1))
print(f"{'':14}{'dL/dU':>12}{'dL/dW':>12}{'dL/db':>12}")
print(f"{'sum G(t, k)':14}{dU:12.7f}{dW:12.7f}{db:12.7f}")
grads = back.grads
rows = [grads["weight_ih_l0"].item(), grads["weight_hh_l0"].item(), grads["bias_ih_l0"].item()]
print(f"{'backward':14}" + "".join(f"{value:12.7f}" for value in rows))
print(f"{'complex_step':14}" + "".join(f"{exact[name].item():12.7f}" for name in "UWb"))
print(f"{'j = k ... t':14}{'':12}{slides:12.7f}")
assert np.allclose([dU, dW, db], rows, rtol=1e-14, atol=0)

# %%
# Con matrices nada cambia, salvo que J_t = diag(1 - h_t^2) W_hh y que el orden de los factores importa: el más nuevo a
# la izquierda. ``decompose`` da todos los términos de cualquier red; sumados, son el gradiente.

rng = np.random.default_rng(0)
rnn = RNN(2, 3, rng=0)
output, _, trace = rnn.forward(rng.normal(size=(4, 1, 2)))
doutput = rng.normal(size=output.shape)
terms = decompose(rnn, trace, doutput)
blocks = [[terms.block("weight_hh_l0", t, k) for k in range(t + 1)] for t in range(4)]
total = sum(sum(row) for row in blocks)
gradient = rnn.backward(trace, doutput).grads["weight_hh_l0"]
print(total.round(6))
assert np.allclose(total, gradient, rtol=1e-13, atol=1e-15)

# %%
# Ejercicio 1: un paso hacia atrás
# --------------------------------
# Las matrices de un paso tienen una fila por secuencia: ``x_t`` (N, D), ``h_prev`` y ``h_t`` (N, H). ``dh_t`` ya tiene
# todo lo que depende de h_t: la pérdida del paso y el futuro. Hay que escribir
#
# ::
#
#     B2   da_t      lo mismo, del otro lado de la tanh
#     B0   dx_t      lo que le llega a la entrada
#     B1   dh_prev   lo que se le devuelve al paso anterior
#     BW   dW_ih, dW_hh, db_ih, db_hh   sumados sobre las N secuencias
#
# ``grade`` usa estas etiquetas. El paso siguiente tiene un solo error; antes de leer el veredicto, buscalo.


def wrong_step(dh_t, x_t, h_prev, h_t, W_ih, W_hh):
    da_t = dh_t * (1 - h_t**2)
    db = da_t.sum(axis=0)
    return da_t @ W_ih, da_t @ W_hh, da_t.T @ x_t, da_t.T @ h_t, db, db


print(grade(wrong_step, lang="both"))

# %%
# Ahora el tuyo. Reemplazá los puntos suspensivos y ejecutá la celda hasta que diga que está bien.


def my_step(dh_t, x_t, h_prev, h_t, W_ih, W_hh):
    da_t = ...
    dx_t = ...
    dh_prev = ...
    dW_ih, dW_hh = ..., ...
    db_ih = db_hh = ...
    return dx_t, dh_prev, dW_ih, dW_hh, db_ih, db_hh


print(grade(my_step, lang="both"))

# %%
# .. raw:: html
#
#     <details><summary>Solución</summary>
#
# ::
#
#     def my_step(dh_t, x_t, h_prev, h_t, W_ih, W_hh):
#         da_t = dh_t * (1 - h_t**2)
#         dx_t = da_t @ W_ih
#         dh_prev = da_t @ W_hh
#         dW_ih, dW_hh = da_t.T @ x_t, da_t.T @ h_prev
#         db_ih = db_hh = da_t.sum(axis=0)
#         return dx_t, dh_prev, dW_ih, dW_hh, db_ih, db_hh
#
# .. raw:: html
#
#     </details>
#
# Ejercicio 2: todos los pasos
# ----------------------------
# ``h`` es (T+1, N, H), y su fila 0 es el estado inicial: el paso t lee ``h[t]`` y escribe ``h[t + 1]``. ``doutput[t]``
# es lo que la pérdida le dice al estado después del paso t, ``dh_n`` lo que le dice además al último.


def my_backward(doutput, dh_n, x, h, W_ih, W_hh):
    dx, dW_ih, dW_hh, db = np.zeros_like(x), np.zeros_like(W_ih), np.zeros_like(W_hh), np.zeros(len(W_hh))
    dh = dh_n
    for t in reversed(range(len(x))):
        ...
    return dx, dh, dW_ih, dW_hh, db, db


print(grade(my_backward, lang="both"))

# %%
# .. raw:: html
#
#     <details><summary>Solución</summary>
#
# ::
#
#     def my_backward(doutput, dh_n, x, h, W_ih, W_hh):
#         dx, dW_ih, dW_hh, db = np.zeros_like(x), np.zeros_like(W_ih), np.zeros_like(W_hh), np.zeros(len(W_hh))
#         dh = dh_n
#         for t in reversed(range(len(x))):
#             da_t = (dh + doutput[t]) * (1 - h[t + 1] ** 2)
#             dx[t] = da_t @ W_ih
#             dW_ih += da_t.T @ x[t]
#             dW_hh += da_t.T @ h[t]
#             db += da_t.sum(axis=0)
#             dh = da_t @ W_hh
#         return dx, dh, dW_ih, dW_hh, db, db
#
# .. raw:: html
#
#     </details>
#
# Se desvanece o explota
# ----------------------
# Lo que la pérdida del último paso le dice al estado de l pasos antes atravesó l jacobianos:
#
# ::
#
#     dL/dh_{t-l} = J_{t-l+1}^T ... J_{t-1}^T J_t^T dL/dh_t,   J_t = diag(1 - h_t^2) W_hh
#
# Si cada uno la achica, la norma cae exponencialmente con el retardo l, como q^l con q < 1, y los pasos lejanos no
# aportan nada; si cada uno la agranda, explota. Se ve cambiando sólo la escala de W_hh: su radio espectral (el mayor de
# los módulos de sus autovalores), 0,5, 1 o 1,5. La entrada es tan chica que la tanh casi no se curva; con entradas
# grandes satura, 1 - h_t^2 cae, y frena.

T, H = 60, 32
x = 1e-12 * np.random.default_rng(1).normal(size=(T, 1, 1))


def norms(layer):
    output, _, trace = layer.forward(x)
    doutput = np.zeros_like(output)
    doutput[-1] = 1 / np.sqrt(H)
    grads = layer.backward(trace, doutput).grads
    return np.linalg.norm(trace.dh[1:, 0], axis=1)[::-1], grads


def scaled(radius):
    rnn = RNN(1, H, rng=0)
    for name in ("bias_ih_l0", "bias_hh_l0"):
        rnn.params[name][...] = 0
    W_hh = rnn.params["weight_hh_l0"]
    W_hh *= radius / np.abs(np.linalg.eigvals(W_hh)).max()
    return rnn


rnns = {radius: scaled(radius) for radius in (0.5, 1.0, 1.5)}
print("|dL/dh| " + "".join(f"{f'l = {lag}':>11}" for lag in (0, 10, 20, 40, 59)))
for radius, rnn in rnns.items():
    line = norms(rnn)[0]
    print(f"  {radius}   " + "".join(f"{line[lag]:11.1e}" for lag in (0, 10, 20, 40, 59)))

# %%
# El recorte
# ----------
# Contra la explosión hay un remedio barato: si la norma de todos los gradientes juntos pasa de un máximo, se los
# multiplica a todos por el mismo número, y la dirección no cambia. Recortar cada entrada por su lado
# (``clip_grad_value``) la cambia: el coseno ya no es 1. Ninguno de los dos recupera lo que se desvaneció.

for clip in (lambda grads: clip_grad_norm(grads, 1.0), lambda grads: clip_grad_value(grads, 0.01)):
    _, grads = norms(rnns[1.5])
    before = grads.flat.copy()
    clip(grads)
    cosine = before @ grads.flat / np.linalg.norm(before) / np.linalg.norm(grads.flat)
    print(f"|g| = {np.linalg.norm(before):.3g} -> {np.linalg.norm(grads.flat):.3g}   cos = {cosine:.4f}")

# %%
# LSTM y GRU
# ----------
# Contra el desvanecimiento hay otra neurona. En la LSTM el estado c pasa de un paso al otro multiplicado sólo por la
# compuerta f; en la GRU, h pasa multiplicado por z:
#
# ::
#
#     LSTM   i, f, o = sigmoide(...)   g = tanh(...)    c_t = f * c_{t-1} + i * g    h_t = o * tanh(c_t)
#     GRU    r, z = sigmoide(...)                       q = W_hn h_{t-1} + b_hn
#            n = tanh(W_in x_t + b_in + r * q)          h_t = (1 - z) * n + z * h_{t-1}
#
# Con f o z cerca de 1 el gradiente llega lejos. Acá las dos con las compuertas abiertas desde el principio: un sesgo de
# 3 en f y en z.

lstm, gru = LSTM(1, H, rng=0), GRU(1, H, rng=0)
for layer in (lstm, gru):
    layer.params["bias_ih_l0"][H : 2 * H] = 3.0  # LSTM: i, f, g, o; GRU: r, z, n

curves = {f"RNN {radius}": norms(rnn)[0] for radius, rnn in rnns.items()}
curves |= {"LSTM": norms(lstm)[0], "GRU": norms(gru)[0]}
looks = [("#56B4E9", ":"), ("#0072B2", "--"), ("#D55E00", "-."), ("#009E73", "-"), ("#CC79A7", (0, (5, 1)))]

figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for (label, line), (colour, style) in zip(curves.items(), looks, strict=True):
    ax.semilogy(line, color=colour, linestyle=style, linewidth=2, label=label)
ax.set(xlabel="$l$", ylabel=r"$\|\partial L / \partial h_{t-l}\|$", xlim=(0, T - 1))
ax.legend(frameon=False, loc="lower left")
ax.grid(alpha=0.3)
figure.savefig("RNN_teoria_gradients.png", dpi=110)

# %%
# En la figura, el retardo l crece hacia la derecha: la RNN de radio 0,5 pierde el gradiente en pocos pasos, la de 1,5
# lo hace crecer sin límite. De la LSTM queda el 8 % a los 59 pasos, de la GRU el 6 %; la de radio 1 conserva el 43 %,
# pero sólo porque con una entrada tan chica la tanh no se curva. (De la LSTM se ve dh; lo que viaja por c es más.)
#
# Ejercicio 3: un paso de la LSTM
# -------------------------------
# ``dh_t`` es lo que le llega a h_t, y ``dc_t`` lo que el paso t+1 le devolvió a c_t. Los bloques de W_ih y W_hh están
# en el orden i, f, g, o.


def my_lstm_step(dh_t, dc_t, x_t, h_prev, c_prev, c_t, i, f, g, o, W_ih, W_hh):
    dc = ...
    da_i, da_f, da_g, da_o = ..., ..., ..., ...
    da = np.zeros((len(x_t), len(W_hh)))
    dc_prev = ...
    return da @ W_ih, da @ W_hh, dc_prev, da.T @ x_t, da.T @ h_prev, da.sum(axis=0), da.sum(axis=0)


print(grade(my_lstm_step, lang="both"))

# %%
# .. raw:: html
#
#     <details><summary>Solución</summary>
#
# ::
#
#     def my_lstm_step(dh_t, dc_t, x_t, h_prev, c_prev, c_t, i, f, g, o, W_ih, W_hh):
#         dc = dc_t + dh_t * o * (1 - np.tanh(c_t) ** 2)
#         da_o = dh_t * np.tanh(c_t) * o * (1 - o)
#         da_i, da_f, da_g = dc * g * i * (1 - i), dc * c_prev * f * (1 - f), dc * i * (1 - g**2)
#         da = np.concatenate([da_i, da_f, da_g, da_o], axis=1)
#         dc_prev = dc * f
#         return da @ W_ih, da @ W_hh, dc_prev, da.T @ x_t, da.T @ h_prev, da.sum(axis=0), da.sum(axis=0)
#
# .. raw:: html
#
#     </details>
#
# Ejercicio 4: un paso de la GRU
# ------------------------------
# h_{t-1} llega a h_t por dos caminos: directo, por z, y por las compuertas. Y W_hh ve otro gradiente que W_ih: en las
# filas de n, q está multiplicado por r. Los bloques están en el orden r, z, n.


def my_gru_step(dh_t, x_t, h_prev, r, z, n, q, W_ih, W_hh):
    da_z, da_n, da_r = ..., ..., ...
    da_ih = np.zeros((len(x_t), len(W_hh)))
    da_hh = np.zeros((len(x_t), len(W_hh)))
    dh_prev = ...
    return da_ih @ W_ih, dh_prev, da_ih.T @ x_t, da_hh.T @ h_prev, da_ih.sum(axis=0), da_hh.sum(axis=0)


print(grade(my_gru_step, lang="both"))

# %%
# .. raw:: html
#
#     <details><summary>Solución</summary>
#
# ::
#
#     def my_gru_step(dh_t, x_t, h_prev, r, z, n, q, W_ih, W_hh):
#         da_z = dh_t * (h_prev - n) * z * (1 - z)
#         da_n = dh_t * (1 - z) * (1 - n**2)
#         da_r = da_n * q * r * (1 - r)
#         da_ih = np.concatenate([da_r, da_z, da_n], axis=1)
#         da_hh = np.concatenate([da_r, da_z, da_n * r], axis=1)
#         dh_prev = dh_t * z + da_hh @ W_hh
#         return da_ih @ W_ih, dh_prev, da_ih.T @ x_t, da_hh.T @ h_prev, da_ih.sum(axis=0), da_hh.sum(axis=0)
#
# .. raw:: html
#
#     </details>
#
# El cuaderno siguiente es RNN_signal_TP: pronosticar una señal real.
